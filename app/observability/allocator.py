"""Settings of glibc's allocator, so that it returns freed memory to the system.

By default glibc keeps a heap for each thread. Requests of all sizes fragment the heaps, and the
process grows for hours without a leak. With other C libraries, this does nothing.
"""

import ctypes
import os
from contextlib import suppress

M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
"""The parameters of mallopt(3)."""

MAX_ARENAS = 2

LARGE_BYTES = 2 * 2**20
"""Blocks of at least this size are mapped, and return to the system when they are freed."""


def limit_kept_memory() -> None:
    """Set the parameters. Call this before threads start; glibc's variables override them."""
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        if "MALLOC_ARENA_MAX" not in os.environ:
            libc.mallopt(M_ARENA_MAX, MAX_ARENAS)
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def give_back() -> None:
    """Return all freed memory to the system."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
