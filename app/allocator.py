"""What the C library's allocator keeps of freed memory: as little as may be.

A server's requests come in all sizes and on many threads. Left alone, glibc keeps a heap for each
thread and leaves holes in all of them, so that a process grows for hours without a leak. Other C
libraries are left as they are.
"""

import ctypes
from contextlib import suppress

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
"""Of mallopt(3)."""

MAX_ARENAS = 2

LARGE_BYTES = 2 * 2**20
"""A block of that size gets pages of its own, which go back when it is freed."""


def restrain() -> None:
    """Once, before the threads begin."""
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, MAX_ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back() -> None:
    """What was freed by now, wherever it can be."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
