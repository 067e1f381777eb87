"""The state that the supervisor and its workers share in memory.

Holds the process id of each place, and whether it accepts requests. Knows nothing of HTTP, of
images, or of how processes are started.
"""

import ctypes
import mmap
import os
from pathlib import Path

FILE = "peers"


class _Place(ctypes.Structure):
    """The process of one place."""

    _fields_ = (("pid", ctypes.c_int32), ("takes_requests", ctypes.c_int32))


class Peers:
    """The shared state, as seen from place `number`: 0 is the supervisor, 1 and up are workers.

    `folder` holds the shared memory and the metrics' files.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        with open(folder / FILE, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        self._places = (_Place * (len(memory) // ctypes.sizeof(_Place))).from_buffer(memory)

    @classmethod
    def create(cls, folder: Path, *, workers: int) -> "Peers":
        """Create the shared memory, in the supervisor and before there are workers."""
        (folder / FILE).write_bytes(bytes((1 + workers) * ctypes.sizeof(_Place)))
        peers = cls(folder, 0)
        peers.seat(0, os.getpid())
        peers.take_requests(True)
        return peers

    def seat(self, number: int, pid: int) -> None:
        """Give a place to a process, or to none (0); it does not accept requests yet."""
        place = self._places[number]
        place.takes_requests = 0
        place.pid = pid

    def take_requests(self, whether: bool) -> None:
        """Say whether this process accepts requests; for the supervisor: whether any worker may."""
        self._places[self.number].takes_requests = whether

    @property
    def are_draining(self) -> bool:
        """Whether the supervisor drains all workers."""
        return not self._places[0].takes_requests

    @property
    def some_take_requests(self) -> bool:
        """Whether at least one worker accepts requests."""
        return not self.are_draining and any(place.takes_requests for place in self._places[1:])

    @property
    def pids(self) -> dict[str, int]:
        """The ids of the running processes by name; a replacement has the same name."""
        return {
            f"worker-{number}" if number else "supervisor": place.pid
            for number, place in enumerate(self._places)
            if place.pid
        }
