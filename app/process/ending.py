"""Ends a process that has nothing left to do. Knows nothing of what it has done."""

import os
import sys
from contextlib import suppress
from typing import NoReturn

EXIT_DEAD = 70
"""The exit status of a process whose engine is stuck or dead (EX_SOFTWARE of sysexits.h)."""

EXIT_DEVICE_LOST = 71
"""The exit status of a process whose GPU fails every call (EX_OSERR): a new one may use it."""


def end_failed(has_lost_device: bool) -> NoReturn:
    """Exit because the engine cannot be recovered."""
    end_process(EXIT_DEVICE_LOST if has_lost_device else EXIT_DEAD)


def end_process(status: int) -> NoReturn:
    """Write out buffered output, and exit at once with this status.

    A normal exit would wait for threads that run a decoder or the engine in C, which cannot be
    interrupted. It would also spend a quarter of a second of CPU time on freeing objects: on busy
    cores, the process would exit more than a second after the drain's limit.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader has closed its end
            stream.flush()
    os._exit(status)
