"""One decoder: a process that decodes image files for one thread of the server.

Starts the process, sends it files, reads its answers, and finds out how it ended. Knows nothing of
formats; the program of the process is `app.codecs.decoder`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from app.codecs import decoder
from app.codecs.decode import Decoded
from app.errors import (
    BrokenImage,
    Overloaded,
    RequestError,
    TooCostly,
    TooManyPixels,
    UnsupportedType,
)
from model.engines.base import Size

PROGRAM = f"import sys; sys.path[:] = sys.argv[1:]; from {decoder.__name__} import main; main()"
"""It does not run the start-up files of site-packages, which halves the time to start."""

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "OPENBLAS_NUM_THREADS": "1",
}
"""These variables make the allocator return freed memory, and keep libraries from starting threads.
"""

INHERITED = frozenset({"PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "LC_ALL", "TZ"})
"""The variables that a decoder inherits. It gets no settings, because some contain passwords."""

PIPE_BYTES = 2**20
F_SETPIPE_SZ = 1031
"""A command of fcntl(2) that enlarges a pipe, so that the two processes wait less often."""

MAX_FILES = 1000
"""A process is restarted after this many files, because decoders in C may leak memory."""

ERRORS = {
    error.__name__: error for error in (BrokenImage, TooCostly, TooManyPixels, UnsupportedType)
}
"""The errors that a decoder reports for a file, by name."""

SAVE_SIMPLER = "Save it again, as a baseline JPEG or as PNG, or scale it down."

TIME_SIGNALS = {signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU}

ChooseSize = Callable[[Size], Size]
"""A function from the size in the file's header to the size to scale down to. It may raise."""


class DecoderProcess:
    """One decoder. One thread at a time may use it; any thread may call `kill`."""

    def __init__(self) -> None:
        """Start the process. Raises Overloaded if the system has no more processes or memory."""
        root = str(Path(__file__).parents[__name__.count(".")])
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, root, *sys.path]
        try:
            self._popen = subprocess.Popen(  # noqa: S603, nothing in it comes from a client
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff writes a line there for each damaged row
                env=ENVIRONMENT | {n: v for n, v in os.environ.items() if n in INHERITED},
                start_new_session=True,  # Ctrl-C must not end it: the server drains first
            )
        except (OSError, MemoryError) as error:
            raise make_out_of_memory_error("No decoder can be started.") from error
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._requests = self._popen.stdin.fileno()
        self._answers = self._popen.stdout.fileno()
        self.ended_by: str | None = None
        """The metric's reason, if a file has ended the process; otherwise None."""
        self.files = 0
        """The number of files that the process has received."""
        self._is_between_files = True
        self._is_killed = False
        _enlarge_pipes(self._requests, self._answers)

    @property
    def is_usable(self) -> bool:
        """Whether the process can decode another file."""
        return (
            self._is_between_files
            and not self._is_killed  # the kernel may need a moment
            and self.files < MAX_FILES
            and self._popen.poll() is None
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def kill(self) -> None:
        """Kill the process; the decoding that uses it then fails."""
        self._is_killed = True
        self._popen.kill()

    def end(self) -> None:
        """Kill the process and wait for its exit."""
        with self._popen:  # closes the pipes, and waits
            self._popen.kill()

    def decode(self, data: bytes, *, max_pixels: int, choose_size: ChooseSize) -> Decoded:
        """Decode one file. Raises RequestError, and what `choose_size` raises."""
        self.files += 1
        self._is_between_files = False
        self._send(decoder.REQUEST.pack(len(data), max_pixels), data)
        kind, values, _ = self._receive()
        if kind != decoder.SIZE:
            raise self._read_error(kind, values[0], b"")
        height, width = self._choose_size(choose_size, (values[0], values[1]))
        self._send(decoder.CHOSEN_SIZE.pack(height, width))
        pixels = np.empty(3 * height * width, np.uint8)
        kind, values, count = self._receive(pixels.data)
        if kind != decoder.PIXELS:
            raise self._read_error(kind, values[0], bytes(pixels.data[:count]))
        self._fill([pixels.data[count:]])
        self._is_between_files = True
        return Decoded(pixels.reshape(values[0], values[1], 3), (values[2], values[3]))

    def _choose_size(self, choose_size: ChooseSize, size: Size) -> Size:
        try:
            return choose_size(size)
        except BaseException:
            self._send(decoder.CHOSEN_SIZE.pack(0, 0))
            self._is_between_files = True
            raise

    def _read_error(self, kind: int, text_bytes: int, begun: bytes) -> Exception:
        if kind == decoder.NO_MEMORY:
            self.ended_by = "memory"
            return TooCostly(
                "The image takes too much memory to decode for its number of pixels.",
                remedy=SAVE_SIMPLER,
            )
        rest = bytearray(min(text_bytes, decoder.MAX_TEXT_BYTES) - len(begun))
        self._fill([memoryview(rest)])
        text = (begun + rest).decode()
        self._is_between_files = True
        if kind == decoder.PROBLEM:
            name, detail, remedy = json.loads(text)
            return ERRORS[name](detail, remedy=remedy)
        return RuntimeError(f"a decoder failed:\n{text}")

    def _send(self, *parts: bytes) -> None:
        """Send the parts in few system calls, because each waits for the interpreter's lock."""
        views = [memoryview(part) for part in parts]
        try:
            while views:
                views = _drop_bytes(views, os.writev(self._requests, views))
        except OSError as error:  # the process has ended
            raise self._explain_end() from error

    def _receive(self, *buffer: memoryview) -> tuple[int, list[int], int]:
        """Return an answer's kind, its values, and the number of bytes read into the buffer."""
        head = memoryview(bytearray(decoder.ANSWER.size))
        count = self._fill([head, *buffer], at_least=len(head)) - len(head)
        kind, *values = decoder.ANSWER.unpack(head)
        return kind, values, count

    def _fill(self, views: list[memoryview], *, at_least: int | None = None) -> int:
        """Read `at_least` bytes into the views, by default all; return the number of bytes read."""
        needed, count = sum(map(len, views)) if at_least is None else at_least, 0
        while count < needed:
            read = os.readv(self._answers, views)
            if not read:
                raise self._explain_end()
            views = _drop_bytes(views, read)
            count += read
        return count

    def _explain_end(self) -> RequestError:
        """Return the error for the way in which the process ended."""
        status = -self._popen.wait()
        if status in TIME_SIGNALS:
            self.ended_by = "time"
            return TooCostly(
                "The image takes too long to decode for its number of pixels.", remedy=SAVE_SIMPLER
            )
        if status == signal.SIGKILL:
            self.ended_by = "killed"
            return make_out_of_memory_error("The decoder was killed.")
        self.ended_by = "crash"
        return BrokenImage(
            "The image makes its decoder crash.",
            remedy="Save it again, with another program or as PNG.",
        )


def _drop_bytes(views: list[memoryview], count: int) -> list[memoryview]:
    """Return the views without their first `count` bytes."""
    while views and count >= len(views[0]):
        count -= len(views[0])
        views = views[1:]
    return [views[0][count:], *views[1:]] if views else []


def make_out_of_memory_error(detail: str) -> Overloaded:
    return Overloaded(detail, reason="memory", remedy="Try again in 1 s.", retry_after_s=1)


def _enlarge_pipes(*pipes: int) -> None:
    if sys.platform == "linux":
        import fcntl

        for pipe in pipes:
            with suppress(OSError):  # the memory of a user's pipes is limited
                fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
