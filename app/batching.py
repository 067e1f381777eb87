"""The batcher: concurrent requests become batches for the one engine.

There is no timer: a batch is whatever waits when the engine can take one, so a lone request waits
for nobody and an idle server does nothing. Only canvases of the same size share a batch. Knows
nothing of HTTP or of images; the engine is a function from canvases to masks.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import chain

from app.errors import InferenceFailed, Overloaded
from app.telemetry import Telemetry, current_request_id
from model.engines.base import Array, Size
from model.predictor import Canvas

PACE_SHARE = 0.2
"""Of the last batch, in the mean of seconds an image."""

Predict = Callable[[Sequence[Canvas]], list[Array]]


@dataclass(frozen=True, slots=True)
class Segmented:
    """A mask, and where its time went."""

    mask: Array
    queue_s: float
    inference_s: float
    batch_size: int


@dataclass(eq=False, slots=True)
class _Waiting:
    canvas: Canvas
    answer: asyncio.Future[Segmented]
    since: float = field(default_factory=time.perf_counter)
    request_id: str = field(default_factory=current_request_id)


@dataclass(frozen=True, slots=True)
class _Computing:
    batch: list[_Waiting]
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """Owns the queue. One task forms the batches, threads of its own compute them."""

    def __init__(
        self,
        predict: Predict,
        *,
        callers: int,
        max_queue: int,
        max_batch_pixels: int,
        max_batch_images: int,
        stuck_after_s: float,
        telemetry: Telemetry,
    ) -> None:
        """`callers`: how many threads may call `predict` at once.

        `max_batch_images`: as many as one call computes together; more would only wait.
        `stuck_after_s`: with a batch that takes longer, the batcher is not alive.
        """
        self._predict = predict
        self._threads = ThreadPoolExecutor(callers, thread_name_prefix="engine")
        self._free_callers = asyncio.Semaphore(callers)
        self._max_queue = max_queue
        self._max_batch_pixels = max_batch_pixels
        self._max_batch_images = max_batch_images
        self._stuck_after_s = stuck_after_s
        self._telemetry = telemetry
        self._waiting: dict[Size, deque[_Waiting]] = {}
        self._computing: dict[asyncio.Task[None], _Computing] = {}
        self._arrived = asyncio.Event()
        self._admitted = 0
        self._seconds_per_image = 0.0
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Batches are formed inside this block; what still waits at its end is answered first."""
        self._task = asyncio.create_task(self._run(), name="batcher")
        with self._threads:
            try:
                yield
            finally:
                await self._drained()
                self._task.cancel()

    @property
    def is_alive(self) -> bool:
        """Whether batches are formed, and none is in the engine for longer than one can take."""
        if self._task is None or self._task.done():
            return False
        stuck_since = time.perf_counter() - self._stuck_after_s
        return all(computing.since > stuck_since for computing in self._computing.values())

    @property
    def predicted_wait_s(self) -> float:
        """Until a request that came now would have its mask, by the pace of the last ones."""
        return (self._admitted + 1) * self._seconds_per_image

    def require_place(self, due: float) -> None:
        """Raises Overloaded where no place is free, or the mask would come after `due`."""
        wait_s, left_s = self.predicted_wait_s, due - time.perf_counter()
        if self._admitted >= self._max_queue:
            raise _overloaded(f"All {self._max_queue} places are taken.", wait_s)
        # With nobody before it, it may try: the pace may be that of one slow image, long ago.
        if self._admitted and wait_s > left_s:
            raise _overloaded(
                f"The mask would take about {wait_s:.2g} s; there are {max(left_s, 0):.2g} s left.",
                wait_s - left_s,
            )

    @contextmanager
    def admitted(self, due: float) -> Iterator[None]:
        """A place among the requests being worked on. Raises as `require_place`."""
        self.require_place(due)
        self._admitted += 1
        self._telemetry.in_flight.set(self._admitted)
        try:
            yield
        finally:
            self._admitted -= 1
            self._telemetry.in_flight.set(self._admitted)

    async def submit(self, canvas: Canvas, due: float) -> Segmented:
        """The canvas' mask, when its batch is computed.

        Raises InferenceFailed, and Overloaded at `due`, whatever the engine is doing then.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(canvas, loop.create_future())
        self._waiting.setdefault(canvas.size, deque()).append(waiting)
        self._arrived.set()
        self._telemetry.queue_depth.inc()
        try:
            async with asyncio.timeout_at(loop.time() + due - time.perf_counter()):
                return await waiting.answer
        except TimeoutError as error:
            wait_s = self.predicted_wait_s
            raise _overloaded("The time for this request is over.", wait_s) from error
        finally:
            waiting.answer.cancel()  # who has left or waited too long is not computed any more

    async def _run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                await self._free_callers.acquire()
                batch = self._next_batch()
                if batch:
                    computing = asyncio.create_task(self._compute(batch), name="batch")
                    self._computing[computing] = _Computing(batch)
                    computing.add_done_callback(self._finish)
                else:
                    self._free_callers.release()
                if not self._waiting:
                    self._arrived.clear()
        finally:
            # Whatever ended the loop: nobody waits for an answer that cannot come.
            _fail(chain(*self._waiting.values()))

    def _finish(self, computing: asyncio.Task[None]) -> None:
        """However the batch ended, everybody in it is answered."""
        _fail(self._computing.pop(computing).batch)
        self._free_callers.release()

    def _next_batch(self) -> list[_Waiting]:
        """The longest waiting, and those of its canvas size behind it that fit the budget."""
        size = min(self._waiting, key=lambda size: self._waiting[size][0].since)
        queue = self._waiting[size]
        within_pixels = self._max_batch_pixels // (size[0] * size[1])
        limit = max(1, min(self._max_batch_images, within_pixels))
        batch: list[_Waiting] = []
        while queue and len(batch) < limit:
            waiting = queue.popleft()
            self._telemetry.queue_depth.dec()
            if not waiting.answer.done():
                batch.append(waiting)
        if not queue:
            del self._waiting[size]
        return batch

    async def _compute(self, batch: list[_Waiting]) -> None:
        """Answer everybody in the batch, with a mask or with the failure of their own image.

        A batch that fails is tried again by halves, so that the one image that the engine cannot
        take, or the batch that its memory cannot, is found and harms no other.
        """
        started = time.perf_counter()
        canvases = [waiting.canvas for waiting in batch]
        loop = asyncio.get_running_loop()
        try:
            masks = await loop.run_in_executor(self._threads, self._predict, canvases)
            answers = list(zip(batch, masks, strict=True))
        except Exception:
            requests = [waiting.request_id for waiting in batch]
            self._telemetry.log.exception("batch failed", request_ids=requests)
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]) if half else ():
                if stayed := [waiting for waiting in part if not waiting.answer.done()]:
                    await self._compute(stayed)
            return  # who is not answered now will be by _finish
        seconds = time.perf_counter() - started
        self._note_pace(seconds / (len(batch) * len(self._computing)))
        self._telemetry.batch_size.observe(len(batch))
        for waiting, mask in answers:
            if not waiting.answer.done():
                queue_s = started - waiting.since
                waiting.answer.set_result(Segmented(mask, queue_s, seconds, len(batch)))

    def _note_pace(self, seconds_per_image: float) -> None:
        """Into an exponential mean, which follows the load and not each image."""
        before = self._seconds_per_image or seconds_per_image
        self._seconds_per_image = before + PACE_SHARE * (seconds_per_image - before)

    async def _drained(self) -> None:
        computing = (computing.batch for computing in self._computing.values())
        everybody = chain(*computing, *self._waiting.values())
        answers = [waiting.answer for waiting in everybody if not waiting.answer.done()]
        if answers and self.is_alive:
            await asyncio.wait(answers)


def _overloaded(detail: str, seconds: float) -> Overloaded:
    seconds = max(1, math.ceil(seconds))
    return Overloaded(
        detail, remedy=f"Try again in {seconds} s.", headers={"Retry-After": str(seconds)}
    )


def _fail(unanswered: Iterable[_Waiting]) -> None:
    for waiting in unanswered:
        if not waiting.answer.done():
            waiting.answer.set_exception(
                InferenceFailed(
                    "The engine failed on this image.",
                    remedy="Try again; if it stays, report the X-Request-ID of this answer.",
                )
            )
