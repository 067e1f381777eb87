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

    _fields_ = (
        ("pid", ctypes.c_int32),
        ("takes_requests", ctypes.c_int32),
        ("is_engine", ctypes.c_int32),
    )


class Peers:
    """The shared state, as seen from slot `number`.

    0 is the supervisor, 1 and up are workers, and after them come engine processes. `folder` holds
    the shared memory, the metrics' files and the engines' sockets.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        with open(folder / FILE, "r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        self._slots = (_Slot * (len(memory) // ctypes.sizeof(_Slot))).from_buffer(memory)

    @classmethod
    def create(cls, folder: Path, *, workers: int, engines: int = 0) -> "Peers":
        """Create the shared memory. The supervisor calls this before it starts workers."""
        (folder / FILE).write_bytes(bytes((1 + workers + engines) * ctypes.sizeof(_Slot)))
        peers = cls(folder, 0)
        for slot in peers._slots[1 + workers :]:
            slot.is_engine = True
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
        workers = sum(not slot.is_engine for slot in self._slots) - 1
        names = ["supervisor", *(f"worker-{number}" for number in range(1, workers + 1))]
        names += [f"engine-{number}" for number in range(len(self._slots) - len(names))]
        return {name: slot.pid for name, slot in zip(names, self._slots, strict=True) if slot.pid}
