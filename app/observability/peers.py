"""The state that the supervisor and its workers share in memory.

Each of these processes has a slot with its process id and whether it accepts requests. Knows
nothing of HTTP, of images, or of how processes are started.
"""

import ctypes
import mmap
import os
from pathlib import Path

FILE = "peers"


class _Slot(ctypes.Structure):
    """The state of one process."""

    _fields_ = (("pid", ctypes.c_int32), ("takes_requests", ctypes.c_int32))


class Peers:
    """The shared state, as seen from slot `number`: 0 is the supervisor, 1 and up are workers.

    `folder` holds the shared memory and the metrics' files.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        with open(folder / FILE, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        self._slots = (_Slot * (len(memory) // ctypes.sizeof(_Slot))).from_buffer(memory)

    @classmethod
    def create(cls, folder: Path, *, workers: int) -> "Peers":
        """Create the shared memory. The supervisor calls this before it starts workers."""
        (folder / FILE).write_bytes(bytes((1 + workers) * ctypes.sizeof(_Slot)))
        peers = cls(folder, 0)
        peers.assign(0, os.getpid())
        peers.take_requests(True)
        return peers

    def assign(self, number: int, pid: int) -> None:
        """Assign a slot to a process that does not accept requests yet, or to none (0)."""
        slot = self._slots[number]
        slot.takes_requests = 0
        slot.pid = pid

    def take_requests(self, whether: bool) -> None:
        """Set whether this process accepts requests; for the supervisor, whether any worker may."""
        self._slots[self.number].takes_requests = whether

    @property
    def are_draining(self) -> bool:
        """Whether the supervisor drains all workers."""
        return not self._slots[0].takes_requests

    @property
    def some_take_requests(self) -> bool:
        """Whether at least one worker accepts requests."""
        return not self.are_draining and any(slot.takes_requests for slot in self._slots[1:])

    @property
    def pids(self) -> dict[str, int]:
        """The ids of the running processes by name; a replacement has the same name."""
        return {
            f"worker-{number}" if number else "supervisor": slot.pid
            for number, slot in enumerate(self._slots)
            if slot.pid
        }
