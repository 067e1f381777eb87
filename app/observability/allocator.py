"""What the C library's allocator keeps of freed memory: as little as may be.

A server's requests come in all sizes and on many threads. Left alone, glibc keeps a heap for each
thread and leaves holes in all of them, so that a process grows for hours without a leak. Other C
libraries are left as they are.
"""

import ctypes
import os
from contextlib import suppress

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
"""Of mallopt(3)."""

MAX_ARENAS = 2

LARGE_BYTES = 2 * 2**20
"""A block of that size gets pages of its own, which go back when it is freed."""


def restrain() -> None:
    """Once, before the threads begin. What the operator has set by glibc's own variables stays."""
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        if "MALLOC_ARENA_MAX" not in os.environ:
            libc.mallopt(M_ARENA_MAX, MAX_ARENAS)
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back() -> None:
    """What was freed by now, wherever it can be."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
