"""The program of a process that decodes image files, one after the other, until its input ends.

It imports as little as it can, for there may be several. Nothing that it reads can take it beyond
its limits: the kernel ends it. Knows nothing of who asks; see `app.codecs.decoders`.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from app.codecs.containers import essential
from app.codecs.pictures import Picture, opened, prepare_pillow, require_modest
from app.errors import RequestError

REQUEST = struct.Struct("<QQ")
"""Bytes of the file that follows; the pixel limit."""
ANSWER = struct.Struct("<BQQQQ")
"""Its kind, and what belongs to it."""
PLAN = struct.Struct("<QQ")
"""Height and width to scale down to; zeros where the picture is not wanted after all."""

SIZE, PIXELS, PROBLEM, NO_MEMORY, BUG = range(5)
"""Kinds of answers. To SIZE (height, width) a plan is expected. PIXELS has the picture's height and
width and the upload's own, upright, and RGB follows; PROBLEM and BUG the length of the JSON or of
the text behind them.
"""

CPU_S = 1.0
CPU_S_PER_PIXEL = 120e-9
"""Of processor time for one file: 4 s for 25 megapixels. The slowest good files take 20 to 30 ns a
pixel on the machine that this was written on.
"""
WALL_FACTOR = 10
"""Seconds of the clock for one of processor time: for what only hangs, however busy the machine."""

MEMORY_BYTES = 48 * 2**20
MEMORY_BYTES_PER_PIXEL = 16
MEMORY_PER_FILE_BYTE = 4
"""More than there was before."""

MAX_TEXT_BYTES = 10_000

NICENESS = 5
"""More than the server's threads that work, which start these processes."""

AUTOGROUP_NICENESS = 10
"""Of a session by itself, against that of the server, which has 0."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _die_with_parent()
    _step_back()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no upload on the disk
    prepare_pillow()
    requests = sys.stdin.buffer
    with suppress(BrokenPipeError):
        while head := requests.read(REQUEST.size):
            file_bytes, max_pixels = REQUEST.unpack(head)
            try:
                _answer(requests.read(file_bytes), max_pixels, requests, answers)
            except MemoryError:
                # A lifted limit first: what is left to do takes memory, too.
                limit_memory(None)
                _send(answers, NO_MEMORY)
                return
            answers.flush()
            limit_time(None)
            limit_memory(None)


def _step_back() -> None:
    """Leave the cores to the engine, which answers whoever sends an ordinary JPEG."""
    os.nice(NICENESS)
    with suppress(OSError):  # Linux may share the cores among sessions: sched(7), autogroup
        Path("/proc/self/autogroup").write_text(str(AUTOGROUP_NICENESS))


def _answer(data: bytes, max_pixels: int, requests: BinaryIO, answers: BinaryIO) -> None:
    limit_time(0)
    limit_memory(max_pixels * MEMORY_BYTES_PER_PIXEL + len(data) * MEMORY_PER_FILE_BYTE)
    try:
        data = essential(data)
        with opened(data, max_pixels=max_pixels) as upload:
            height, width = upload.size
            _send(answers, SIZE, height, width)
            content = PLAN.unpack(requests.read(PLAN.size))
            if not all(content):
                return
            limit_time(height * width)
            limit_memory(height * width * MEMORY_BYTES_PER_PIXEL + len(data) * MEMORY_PER_FILE_BYTE)
            require_modest(upload, max_pixels)
            _send_picture(answers, upload.picture(content))
    except RequestError as error:
        text = json.dumps([type(error).__name__, error.detail, error.remedy]).encode()
        _send(answers, PROBLEM, len(text))
        answers.write(text)
    except (MemoryError, BrokenPipeError):
        raise
    except Exception:
        text = traceback.format_exc().encode()[-MAX_TEXT_BYTES:]
        _send(answers, BUG, len(text))
        answers.write(text)


def _send_picture(answers: BinaryIO, picture: Picture) -> None:
    bands = picture.bands()
    first = next(bands)  # what can fail of a conversion fails here
    _send(answers, PIXELS, picture.image.height, picture.image.width, *picture.size)
    try:
        answers.write(first.tobytes())
        for band in bands:
            answers.write(band.tobytes())
    except BaseException:
        os._exit(1)  # in the middle of the pixels nothing else can be said


def _send(answers: BinaryIO, kind: int, *values: int) -> None:
    answers.write(ANSWER.pack(kind, *values, *[0] * (4 - len(values))))
    answers.flush()


def limit_time(pixels: int | None) -> None:
    """For what comes now, of an image of so many; None lifts it. The kernel's signals end us."""
    seconds = 0 if pixels is None else CPU_S + CPU_S_PER_PIXEL * pixels
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * seconds)


def limit_memory(more_bytes: int | None) -> None:
    """To what is there now and so much more; None lifts it."""
    held = held_bytes()
    if held is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = hard if more_bytes is None else held + MEMORY_BYTES + more_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def held_bytes() -> int | None:
    """As RLIMIT_DATA counts: private and writable. None where the system does not say."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmData:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def _die_with_parent() -> None:
    """At once, and not only when the input ends: it may be in the middle of a file."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
