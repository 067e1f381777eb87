"""Threads for work that takes long, behind the event loop in the queue for a core.

Knows nothing of the work.
"""

import asyncio
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

NICENESS = 10
"""Of nice(2). What the event loop does is short, but on cores that are all busy it would wait for
its turn: with 10, 99 of 100 refusals under overload take 6 ms instead of 13.
"""


def work_threads(count: int, name: str) -> ThreadPoolExecutor:
    """What they start, as an engine its threads, is as nice as they are."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_step_back)


async def end_threads(threads: ThreadPoolExecutor, within_s: float | None) -> None:
    """Give them no more work, and wait so long for what they have; None: as long as it takes."""
    threads.shutdown(wait=False)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        threads.shutdown(wait=True)
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, name="end", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            await ended.wait()


def are_threads_at_work() -> bool:
    """Whether an ordinary end of the process would wait for a thread."""
    others = (thread for thread in threading.enumerate() if not thread.daemon)
    return any(thread is not threading.main_thread() for thread in others)


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.nice(NICENESS)
