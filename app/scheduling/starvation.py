"""How long the engine's threads have waited for a processor that others used.

Linux counts this for each thread; elsewhere it is unknown, and counts as 0. Knows nothing of what
the threads compute.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.scheduling.threads import ENGINE_THREADS

TASKS = Path("/proc/self/task")
"""The folder with a folder for each thread of this process."""


def start_meter() -> Callable[[], float]:
    """Return a function that returns the seconds of waiting since this call.

    They are those of the thread that has waited longest, because threads wait at the same time.
    """
    before = _read_waits_ns()

    def measure_s() -> float:
        now = _read_waits_ns()
        return max((now[task] - before.get(task, 0) for task in now), default=0) / 1e9

    return measure_s


def _read_waits_ns() -> dict[str, int]:
    """Return how long each thread that may compute has been ready to run without running.

    These are the engine's threads and those that libraries have started, but not the other threads
    of Python, such as codecs, which may have to wait while the engine is stuck.
    """
    python = {
        str(thread.native_id)
        for thread in threading.enumerate()
        if not thread.name.startswith(ENGINE_THREADS)
    }
    waits_ns = {}
    with suppress(OSError):  # no such folder, as on macOS
        for task in TASKS.iterdir():
            # A thread may end meanwhile; a kernel may count nothing.
            with suppress(OSError, IndexError, ValueError):
                if task.name not in python:
                    waits_ns[task.name] = int((task / "schedstat").read_text().split()[1])
    return waits_ns
