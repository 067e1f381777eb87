"""What several workers and their supervisor know of each other, in memory that they share.

Which process has which place, and whether it takes requests. Knows nothing of HTTP, of images, or
of how processes are started.
"""

import ctypes
import mmap
import os
from pathlib import Path

FILE = "peers"


class _Place(ctypes.Structure):
    _fields_ = (("pid", ctypes.c_int32), ("takes_requests", ctypes.c_int32))


class Peers:
    """As seen from place `number`: the supervisor's is 0, the workers' are from 1 on.

    `folder` is theirs together; what they count is in it, too.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        with open(folder / FILE, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        self._places = (_Place * (len(memory) // ctypes.sizeof(_Place))).from_buffer(memory)

    @classmethod
    def create(cls, folder: Path, *, workers: int) -> "Peers":
        """The supervisor does, before there are workers."""
        (folder / FILE).write_bytes(bytes((1 + workers) * ctypes.sizeof(_Place)))
        peers = cls(folder, 0)
        peers.seat(0, os.getpid())
        peers.take_requests(True)
        return peers

    def seat(self, number: int, pid: int) -> None:
        """Another process has this place, or with 0 none; it takes no requests yet."""
        place = self._places[number]
        place.takes_requests = 0
        place.pid = pid

    def take_requests(self, whether: bool) -> None:
        """Of the process itself; of the supervisor, whether there shall be any."""
        self._places[self.number].takes_requests = whether

    @property
    def are_draining(self) -> bool:
        """Whether all have been told to end, or soon will have."""
        return not self._places[0].takes_requests

    @property
    def some_take_requests(self) -> bool:
        return not self.are_draining and any(place.takes_requests for place in self._places[1:])

    @property
    def pids(self) -> dict[str, int]:
        """Of those that run, by a name that a replacement has as well."""
        return {
            f"worker-{number}" if number else "supervisor": place.pid
            for number, place in enumerate(self._places)
            if place.pid
        }
