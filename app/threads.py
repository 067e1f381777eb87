"""Threads for work that takes long, behind the event loop in the queue for a core.

Knows nothing of the work.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

NICENESS = 10
"""Of nice(2). What the event loop does is short, but on cores that are all busy it would wait for
its turn: with 10, 99 of 100 refusals under overload take 6 ms instead of 13.
"""


def work_threads(count: int, name: str) -> ThreadPoolExecutor:
    """What they start, as an engine its threads, is as nice as they are."""
    return ThreadPoolExecutor(count, thread_name_prefix=name, initializer=_step_back)


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere it would be the whole process
        os.nice(NICENESS)
