"""The pool of decoder processes: a file that hangs or crashes its decoder affects no other request.

A decoder that hangs, crashes or exceeds its limits ends alone, and another one starts when it is
needed. Knows nothing of formats; the program of the processes is `app.codecs.decoder`.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from app.codecs.decode import Decoded
from app.codecs.decoder_process import ChooseSize, DecoderProcess
from app.codecs.pixel_gate import PixelGate
from app.observability.metrics import Metrics
from app.scheduling.budget import Share
from app.scheduling.codec_threads import CodecThreads
from model.engines.base import Size

T = TypeVar("T")

DECODERS_PER_THREAD = 8
"""The number of decoders for each codec thread. More slow files than this delay other files."""

LARGE_IMAGES_PER_THREAD = 1.5
"""The limit of pixels that are decoded at the same time, in images of SEG_MAX_PIXELS for each codec
thread. An image may take half of what is free: with two threads, two such images and small ones.
"""

MAX_IDLE = 2
"""The largest number of idle decoders that are kept for the next files; each takes 12 MB."""


class Decoders:
    """At most `count` processes; the first is started with the first file.

    There are more processes than cores, and the system divides the cores among them: a file that
    takes seconds delays one that takes milliseconds only by milliseconds. Together they work on at
    most `max_pixels`, which limits their memory.
    """

    def __init__(self, count: int, *, max_pixels: int, metrics: Metrics) -> None:
        self._work = CodecThreads(count, gauge=metrics.codec_tasks)
        self._gate = PixelGate(max_pixels)
        self.threads = self._work.threads
        self.idle: list[DecoderProcess] = []
        self.busy: set[DecoderProcess] = set()
        self.metrics = metrics
        self._is_closed = False

    def close(self) -> None:
        """Kill all processes; running decodings fail.

        Threads of the pool wait for the processes to exit, which takes long if the cores are busy
        with work of higher priority. The process may end without waiting for these threads.
        """
        self._is_closed = True
        for process in (*self.busy, *self.idle):
            process.kill()
        self.threads.submit(self._end_idle)

    async def decode(
        self,
        data: bytes,
        *,
        max_pixels: int,
        choose_size: ChooseSize,
        finish: Callable[[Decoded], T],
        held: Sequence[Share] = (),
    ) -> T:
        """Decode a file in a process, and return what `finish` makes of it.

        `choose_size` and `finish` run on a thread of the pool. Cancelling kills the process, or
        drops the file if its decoding has not begun; `held` is kept until then. Raises
        UnsupportedType, TooManyPixels, BrokenImage, TooCostly and Overloaded, and what
        `choose_size` raises.
        """
        job = _Job()
        try:
            return await self._work.run(
                self._decode, job, data, max_pixels, choose_size, finish, held=held
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
        choose_size: ChooseSize,
        finish: Callable[[Decoded], T],
    ) -> T:
        entered = 0

        def enter(size: Size) -> Size:
            nonlocal entered
            content, pixels = choose_size(size), size[0] * size[1]
            if self._gate.enter(pixels, is_cancelled=lambda: job.is_cancelled):
                entered = pixels
            return content

        try:
            with self._use_process() as process, job.on(process):
                decoded = process.decode(data, max_pixels=max_pixels, choose_size=enter)
        finally:
            if entered:
                self._gate.leave(entered)
        return finish(decoded)

    @contextmanager
    def _use_process(self) -> Iterator[DecoderProcess]:
        """Reserve a process for the block; it is reused for another file if it is still usable."""
        process = self._take_idle() or DecoderProcess()
        self.busy.add(process)
        try:
            yield process
        finally:
            self.busy.discard(process)
            if process.ended_by is not None:
                self.metrics.decoders_ended.labels(process.ended_by).inc()
            if process.is_usable and len(self.idle) < MAX_IDLE:
                self.idle.append(process)
                if self._is_closed:
                    self._end_idle()
            else:
                process.end()

    def _end_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self.idle.pop().end()

    def _take_idle(self) -> DecoderProcess | None:
        with suppress(IndexError):
            while True:
                process = self.idle.pop()  # the most recently used one: its memory is in caches
                if process.is_usable:
                    return process
                process.end()
        return None


class _Job:
    """The decoding of one file, which may be cancelled before, during and after its run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: DecoderProcess | None = None
        self.is_cancelled = False

    @contextmanager
    def on(self, process: DecoderProcess) -> Iterator[None]:
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
