"""Decoders in processes of their own: whatever a file does to one, it does to no other.

A decoder in C that hangs, crashes or takes too much ends alone, and another one is started when it
is needed. Knows nothing of formats; what the processes do is in `app.codecs.decoder`.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np

from app.codecs import decoder
from app.codecs.decode import Decoded
from app.codecs.pixel_gate import PixelGate
from app.errors import (
    BrokenImage,
    Overloaded,
    RequestError,
    TooCostly,
    TooManyPixels,
    UnsupportedType,
)
from app.observability.metrics import Metrics
from app.scheduling.budget import Share
from app.scheduling.codec_threads import CodecThreads
from model.engines.base import Size

T = TypeVar("T")

PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from app.codecs.decoder import main; main()"
"""Without site-packages' start-up files: half of the time that it would take."""

ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
    "OPENBLAS_NUM_THREADS": "1",
}
"""So that what is freed goes back, and nobody starts threads."""

PIPE_BYTES = 2**20
F_SETPIPE_SZ = 1031
"""Of fcntl(2): fewer turns between two processes."""

DECODERS_PER_THREAD = 8
"""For each codec thread: more hostile files than this at once make others wait."""

MAX_IDLE = 2
"""Decoders that are kept for the next files; each takes 12 MB."""

MAX_FILES = 1000
"""Then a process is replaced: decoders in C may leak."""

ERRORS = {error.__name__: error for error in (BrokenImage, TooManyPixels, UnsupportedType)}
"""What a decoder raises for a file, by name."""

SMALLER = "Save it anew, as a baseline JPEG or as PNG, or scale it down."

Plan = Callable[[Size], Size]
"""The size that the header tells, to the size to scale to. May raise a Problem."""


class Decoders:
    """As many at once as `count`; none before the first file.

    There are more than cores, for the system shares the cores among them: a file that takes its
    decoder seconds delays one that takes milliseconds by milliseconds. They work on `max_pixels` at
    most together, which bounds their memory.
    """

    def __init__(self, count: int, *, max_pixels: int, metrics: Metrics) -> None:
        self._work = CodecThreads(count, gauge=metrics.codec_tasks)
        self._gate = PixelGate(max_pixels)
        self.threads = self._work.threads
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._metrics = metrics

    def close(self) -> None:
        """At once; whatever still decodes fails."""
        for process in tuple(self._busy):
            process.kill()
        self.threads.shutdown()
        while self._idle:
            self._idle.pop().end()

    async def decode(
        self,
        data: bytes,
        *,
        max_pixels: int,
        plan: Plan,
        finish: Callable[[Decoded], T],
        held: Sequence[Share] = (),
    ) -> T:
        """`plan` and `finish` run in a thread of ours. A cancelled decode ends at once, or is
        forgotten before it begins; `held` is kept until then.

        Raises UnsupportedType, TooManyPixels, BrokenImage, TooCostly, Overloaded, and what `plan`
        raises.
        """
        job = _Job()
        try:
            return await self._work.run(
                self._decode, job, data, max_pixels, plan, finish, held=held
            )
        except asyncio.CancelledError:
            job.cancel()
            self._gate.wake()
            raise

    def _decode(
        self,
        job: "_Job",
        data: bytes,
        max_pixels: int,
        plan: Plan,
        finish: Callable[[Decoded], T],
    ) -> T:
        entered = 0

        def enter(size: Size) -> Size:
            nonlocal entered
            content, pixels = plan(size), size[0] * size[1]
            if self._gate.enter(pixels, is_cancelled=lambda: job.is_cancelled):
                entered = pixels
            return content

        try:
            with self._process() as process, job.on(process):
                decoded = process.decode(data, max_pixels=max_pixels, plan=enter)
        finally:
            if entered:
                self._gate.leave(entered)
        return finish(decoded)

    @contextmanager
    def _process(self) -> Iterator["_Process"]:
        """One that nobody else uses; it is kept for the next file if it still can decode."""
        process = self._idle_one() or _Process()
        self._busy.add(process)
        try:
            yield process
        finally:
            self._busy.discard(process)
            if process.ended_by is not None:
                self._metrics.decoders_ended.labels(process.ended_by).inc()
            if process.is_usable and len(self._idle) < MAX_IDLE:
                self._idle.append(process)
            else:
                process.end()

    def _idle_one(self) -> "_Process | None":
        with suppress(IndexError):
            while True:
                process = self._idle.pop()  # the last one used: its memory is warm
                if process.is_usable:
                    return process
                process.end()
        return None


class _Job:
    """One file's decoding, which may be cancelled before, while and after it runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self.is_cancelled = False

    @contextmanager
    def on(self, process: "_Process") -> Iterator[None]:
        with self._lock:
            self._process = process
            if self.is_cancelled:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._process = None

    def cancel(self) -> None:
        with self._lock:
            self.is_cancelled = True
            if self._process is not None:
                self._process.kill()


class _Process:
    """One decoder. To be used by one thread at a time; `kill` by any."""

    def __init__(self) -> None:
        """Raises Overloaded where the system has no more processes."""
        root = str(Path(__file__).parents[2])
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, root, *sys.path]
        try:
            self._popen = subprocess.Popen(  # noqa: S603, nothing of it is a caller's
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff writes a line there for each damaged row
                env=ENVIRONMENT | os.environ,
                start_new_session=True,  # Ctrl-C is for us: we let it finish
            )
        except (OSError, MemoryError) as error:
            raise out_of_memory("No decoder can be started.") from error
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._requests = self._popen.stdin.fileno()
        self._answers = self._popen.stdout.fileno()
        self.ended_by: str | None = None
        """Why it is no more, for the metric, where a file is to blame."""
        self._files = 0
        self._is_between_files = True
        _widen(self._requests, self._answers)

    @property
    def is_usable(self) -> bool:
        return self._is_between_files and self._files < MAX_FILES and self._popen.poll() is None

    def kill(self) -> None:
        self._popen.kill()

    def end(self) -> None:
        """Nothing of it stays."""
        with self._popen:  # closes the pipes, and waits
            self._popen.kill()

    def decode(self, data: bytes, *, max_pixels: int, plan: Plan) -> Decoded:
        """Raises Problem."""
        self._files += 1
        self._is_between_files = False
        self._send(decoder.REQUEST.pack(len(data), max_pixels), data)
        kind, values, _ = self._receive(NO_ROOM)
        if kind != decoder.SIZE:
            raise self._refusal(kind, values[0], b"")
        height, width = self._planned(plan, (values[0], values[1]))
        self._send(decoder.PLAN.pack(height, width))
        pixels = np.empty(3 * height * width, np.uint8)
        room = pixels.data
        kind, values, count = self._receive(room)
        if kind != decoder.PIXELS:
            raise self._refusal(kind, values[0], bytes(room[:count]))
        self._fill([room[count:]])
        self._is_between_files = True
        return Decoded(pixels.reshape(values[0], values[1], 3), (values[2], values[3]))

    def _planned(self, plan: Plan, size: Size) -> Size:
        try:
            return plan(size)
        except BaseException:
            self._send(decoder.PLAN.pack(0, 0))
            self._is_between_files = True
            raise

    def _refusal(self, kind: int, text_bytes: int, begun: bytes) -> Exception:
        if kind == decoder.NO_MEMORY:
            self.ended_by = "memory"
            return TooCostly(
                "The image takes more memory to decode than its pixels are worth.", remedy=SMALLER
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
        """In as few system calls as may be: after each, this thread waits for the interpreter."""
        views = [memoryview(part) for part in parts]
        try:
            while views:
                views = _without(views, os.writev(self._requests, views))
        except OSError as error:  # it reads no more
            raise self._ended() from error

    def _receive(self, room: memoryview) -> tuple[int, list[int], int]:
        """An answer's kind and values, and how many of the bytes behind them are in `room`."""
        head = memoryview(bytearray(decoder.ANSWER.size))
        count = self._fill([head, room], at_least=len(head)) - len(head)
        kind, *values = decoder.ANSWER.unpack(head)
        return kind, values, count

    def _fill(self, views: list[memoryview], *, at_least: int | None = None) -> int:
        """How many bytes have come: so many, or all."""
        needed, count = sum(map(len, views)) if at_least is None else at_least, 0
        while count < needed:
            read = os.readv(self._answers, views)
            if not read:
                raise self._ended()
            views = _without(views, read)
            count += read
        return count

    def _ended(self) -> RequestError:
        """What the kernel says of how it ended."""
        status = -self._popen.wait()
        if status in TIME_SIGNALS:
            self.ended_by = "time"
            return TooCostly(
                "The image takes longer to decode than its pixels are worth.", remedy=SMALLER
            )
        if status == signal.SIGKILL:
            self.ended_by = "killed"
            return out_of_memory("The decoder was killed.")
        self.ended_by = "crash"
        return BrokenImage(
            "The image makes its decoder crash.",
            remedy="Save it anew, with another program or as PNG.",
        )


NO_ROOM = memoryview(bytearray())
TIME_SIGNALS = {signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU}


def _without(views: list[memoryview], count: int) -> list[memoryview]:
    """What is left of them after so many bytes."""
    while views and count >= len(views[0]):
        count -= len(views[0])
        views = views[1:]
    return [views[0][count:], *views[1:]] if views else []


def out_of_memory(detail: str) -> Overloaded:
    return Overloaded(detail, reason="memory", remedy="Try again in 1 s.", retry_after_s=1)


def _widen(*pipes: int) -> None:
    if sys.platform == "linux":
        import fcntl

        for pipe in pipes:
            with suppress(OSError):  # a user may only have so much of it
                fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE_BYTES)
