"""Threads for long work, at a lower priority than the event loop.

Knows nothing of the work.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

ENGINE_THREADS = "engine"
"""The first part of the names of the threads that call the engine."""

NICENESS = 10
"""The threads' nice value, which lets the event loop run first on busy cores: with 10, the 99th
percentile of refusals under overload is 6 ms instead of 13 ms.
"""


def start_work_threads(count: int, name: str) -> ThreadPoolExecutor:
    """Return an executor of low priority; processes that its threads start inherit the priority."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_lower_priority)


async def end_threads(threads: ThreadPoolExecutor, within_s: float | None) -> None:
    """Shut the executor down and wait for its running work, at most `within_s` (None: no limit)."""
    threads.shutdown(wait=False)
    await run_on_daemon(threads.shutdown, within_s)


async def run_on_daemon(end: Callable[[], object], within_s: float | None) -> None:
    """Call `end` on a thread and wait for it, at most `within_s` (None: no limit).

    If it hangs, neither the loop nor the process waits any longer.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        end()
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, name="end", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await ended.wait()


def _lower_priority() -> None:
    if sys.platform == "linux":  # elsewhere `nice` lowers the whole process
        os.nice(NICENESS)
