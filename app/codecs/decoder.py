"""The program of a decoder process: decodes image files, one at a time, until its input ends.

It imports little, because there may be several such processes. The kernel ends the process if a
file exceeds its limit of time; an allocation above the limit of memory fails.
`app.codecs.decoder_process` starts it and communicates with it.
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

from app.codecs.costs import compute_max_seconds, require_modest
from app.codecs.pictures import Picture, open_upload
from app.codecs.pillow import prepare_pillow
from app.codecs.rgb import convert_in_bands
from app.codecs.stripping import strip_file
from app.errors import RequestError

REQUEST = struct.Struct("<QQ")
"""A request: the number of bytes of the file that follows, and the pixel limit."""
ANSWER = struct.Struct("<BQQQQ")
"""An answer: its kind and up to four values."""
CHOSEN_SIZE = struct.Struct("<QQ")
"""The answer to SIZE: the height and width to scale down to, or zeros to skip the picture."""

SIZE, PIXELS, PROBLEM, NO_MEMORY, BUG = range(5)
"""The kinds of answers. SIZE has the height and width; CHOSEN_SIZE must follow. PIXELS has the size
of the picture and the upright size of the upload; RGB pixels follow. PROBLEM and BUG have the
length of the JSON or text that follows.
"""

WALL_FACTOR = 30
"""The limit of wall time, as a multiple of the limit of CPU time. It ends a decoder that hangs
without using the CPU. A valid file must pass even if the process gets only a twentieth of a core.
"""

MEMORY_BYTES = 48 * 2**20
MEMORY_BYTES_PER_PIXEL = 16
MEMORY_PER_FILE_BYTE = 4
"""The limit of the memory that one file may add is the sum of these."""

MAX_TEXT_BYTES = 10_000

NICENESS = 5
"""The niceness that a decoder adds to the niceness of the server's thread that starts it."""

AUTOGROUP_NICENESS = 10
"""The niceness of the decoder's session; the server's session has 0."""

PR_SET_PDEATHSIG = 1
"""An option of prctl(2)."""


def main() -> None:
    """Answer requests from standard input on standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library's output must not reach the answers
    _die_with_parent()
    _lower_priority()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no upload on the disk
    prepare_pillow()
    requests = sys.stdin.buffer
    with suppress(BrokenPipeError):
        while head := requests.read(REQUEST.size):
            file_bytes, max_pixels = REQUEST.unpack(head)
            try:
                _answer(requests.read(file_bytes), max_pixels, requests, answers)
            except MemoryError:
                # The limit is removed first, because the answer needs memory, too.
                limit_memory(None)
                _send(answers, NO_MEMORY)
                return
            answers.flush()
            limit_time(None)
            limit_memory(None)


def _lower_priority() -> None:
    """Lower the priority, so that slow files do not take cores from the engine."""
    os.nice(NICENESS)
    with suppress(OSError):  # Linux may share the cores among sessions: sched(7), autogroup
        Path("/proc/self/autogroup").write_text(str(AUTOGROUP_NICENESS))


def _answer(data: bytes, max_pixels: int, requests: BinaryIO, answers: BinaryIO) -> None:
    limit_time(0)
    limit_memory(max_pixels * MEMORY_BYTES_PER_PIXEL + len(data) * MEMORY_PER_FILE_BYTE)
    try:
        data = strip_file(data)
        with open_upload(data, max_pixels=max_pixels) as upload:
            height, width = upload.size
            limit_time(None)  # the server may let this image wait for others
            _send(answers, SIZE, height, width)
            content = CHOSEN_SIZE.unpack(requests.read(CHOSEN_SIZE.size))
            if not all(content):
                return
            limit_time(height * width)
            limit_memory(height * width * MEMORY_BYTES_PER_PIXEL + len(data) * MEMORY_PER_FILE_BYTE)
            require_modest(upload.image, upload.data, max_pixels=max_pixels)
            _send_picture(answers, upload.decode(content))
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
    bands = convert_in_bands(picture.image)
    first = next(bands)  # a conversion fails here, if at all
    _send(answers, PIXELS, picture.image.height, picture.image.width, *picture.size)
    try:
        answers.write(first.tobytes())
        for band in bands:
            answers.write(band.tobytes())
    except BaseException:
        os._exit(1)  # an error cannot be reported between pixels


def _send(answers: BinaryIO, kind: int, *values: int) -> None:
    answers.write(ANSWER.pack(kind, *values, *[0] * (4 - len(values))))
    answers.flush()


def limit_time(pixels: int | None) -> None:
    """Limit the time for an image of so many pixels; None removes the limit.

    At the limit, a signal ends the process.
    """
    seconds = 0 if pixels is None else compute_max_seconds(pixels)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * seconds)


def limit_memory(more_bytes: int | None) -> None:
    """Limit the memory to what is in use plus this number of bytes; None removes the limit."""
    held = measure_held_bytes()
    if held is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = hard if more_bytes is None else held + MEMORY_BYTES + more_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def measure_held_bytes() -> int | None:
    """Return the private, writable memory, as RLIMIT_DATA counts it; None if it is unknown."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmData:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def _die_with_parent() -> None:
    """Die at once when the parent dies, even in the middle of a file."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
