"""The batcher: groups concurrent requests into batches for the one engine.

There is no timer: a free engine gets what waits at that moment. So a single request is never
delayed, and an idle server does nothing. Only canvases of the same size, for the same weights,
share a batch. Knows nothing of HTTP or of images: the engine maps canvases to masks.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import structlog

from app.errors import Overloaded
from app.observability.metrics import Metrics
from app.observability.request_id import get_request_id
from app.observability.stages import Stages
from app.scheduling.answers import fail
from app.scheduling.budget import Held
from app.scheduling.threads import ENGINE_THREADS, start_work_threads
from app.scheduling.watchdog import Watchdog
from model.engines.base import Array, Engine, Size
from model.errors import DeviceLost
from model.predictor import Canvas

Predict = Callable[[Sequence[Canvas]], list[Array]]

log = structlog.get_logger("segmentation")


@dataclass(eq=False, slots=True)
class _Waiting:
    """One canvas in the queue or in the engine, and the future of its mask."""

    predict: Predict
    canvas: Canvas
    stages: Stages
    answer: asyncio.Future[Array]
    since: float
    """The Unix time at which it entered the queue."""
    held: Held | None = None
    request_id: str = field(default_factory=get_request_id)

    @property
    def kind(self) -> tuple[Predict, Size]:
        """The key of its queue: only canvases of the same kind may share a batch."""
        return self.predict, self.canvas.size

    def keep(self) -> None:
        if self.held is not None:
            self.held.keep()

    def let_go(self) -> None:
        """Release the share. Called once, when the entry leaves the queue or the engine."""
        if self.held is not None:
            self.held.let_go()


_Queue = OrderedDict[_Waiting, None]
"""A first-in, first-out queue from which a cancelled entry is removed in constant time."""


class Batcher:
    """Owns the queue. One task forms the batches, and the batcher's threads compute them."""

    def __init__(
        self,
        *,
        concurrency: int,
        max_batch_pixels: int,
        max_batch_images: int,
        watchdog: Watchdog,
        metrics: Metrics,
        abandon: Callable[[Array], None] | None = None,
    ) -> None:
        """`concurrency` is the number of engine calls that may run at the same time.

        `max_batch_images` is the number of images that one engine call computes together. `abandon`
        is called with a canvas' pixels if its request is cancelled while the engine computes it.
        """
        self._abandon = abandon
        self.threads = start_work_threads(concurrency, ENGINE_THREADS)
        self._free_threads = asyncio.Semaphore(concurrency)
        self._max_batch_pixels = max_batch_pixels
        self._max_batch_images = max_batch_images
        self._watchdog = watchdog
        self.metrics = metrics
        self.queues: dict[tuple[Predict, Size], _Queue] = {}
        self.computing: dict[asyncio.Task[None], list[_Waiting]] = {}
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.has_lost_device = False
        """Whether the engine's device fails every call from now on."""

    @classmethod
    def for_engine(cls, engine: Engine, **rest: Any) -> "Batcher":
        """Return a batcher whose batches keep this engine busy."""
        rest |= {"concurrency": engine.callers_at_once, "max_batch_images": engine.images_per_call}
        return cls(abandon=getattr(engine, "abandon", None), **rest)  # only remote engines have it

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Form batches during the block; at its end, first answer the requests that still wait."""
        self._task = asyncio.create_task(self._run(), name="batcher")
        try:
            yield
        finally:
            await self._answer_all()
            self._task.cancel()
            await asyncio.wait([self._task])
            self.threads.shutdown(wait=False)

    @property
    def is_alive(self) -> bool:
        """Whether batches are formed and no engine call is stuck."""
        return self._task is not None and not self._task.done() and self._watchdog.is_healthy

    async def submit(
        self, predict: Predict, canvas: Canvas, stages: Stages, *, held: Held | None = None
    ) -> Array:
        """Return the mask that `predict` computes for the canvas in a batch.

        The request enters the stage `queue`, then `inference`. A cancelled request is removed from
        the queue. If its batch is already being computed, `held` is kept until the computation has
        ended. Raises InferenceFailed, and the Overloaded of `predict`.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(predict, canvas, stages, loop.create_future(), time.time(), held)
        waiting.keep()
        stages.enter("queue")
        self.queues.setdefault(waiting.kind, OrderedDict())[waiting] = None
        self._arrived.set()
        self._count_queue()
        try:
            return await waiting.answer
        finally:
            self._leave(waiting)

    def give_up(self) -> None:
        """Fail all requests that wait, because the engine does not return."""
        fail(chain(*self.queues.values(), *self.computing.values()))

    def _leave(self, waiting: _Waiting) -> None:
        """Remove a request from the queue; if the engine has it, tell the engine to drop it."""
        waiting.answer.cancel()
        queue = self.queues.get(waiting.kind)
        if queue is not None and waiting in queue:
            del queue[waiting]
            if not queue:
                del self.queues[waiting.kind]
            self._count_queue()
            waiting.let_go()
        elif waiting.answer.cancelled() and self._abandon is not None:
            self._abandon(waiting.canvas.pixels)

    def _count_queue(self) -> None:
        firsts = [next(iter(queue)).since for queue in self.queues.values()]
        self.metrics.queue_depth.set(sum(map(len, self.queues.values())))
        self.metrics.oldest_since.set(min(firsts, default=math.inf))

    async def _run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                await self._free_threads.acquire()
                if self.queues:
                    batch = self.take_batch()
                    computing = asyncio.create_task(self._compute(batch), name="batch")
                    self.computing[computing] = batch
                    computing.add_done_callback(self._finish)
                else:
                    self._free_threads.release()
                if not self.queues:
                    self._arrived.clear()
        except Exception:
            log.exception("batcher failed")
            self._watchdog.give_up("batcher")
        finally:
            # However the loop has ended, nothing will compute what is still queued.
            fail(chain(*self.queues.values()))

    def _finish(self, computing: asyncio.Task[None]) -> None:
        """Answer every request of the batch, however it ended."""
        batch = self.computing.pop(computing)
        fail(batch)
        for waiting in batch:
            waiting.let_go()
        self._free_threads.release()

    def take_batch(self) -> list[_Waiting]:
        """Take the oldest request and those of its kind that fit the limits of a batch."""
        kind, queue = min(self.queues.items(), key=lambda item: next(iter(item[1])).since)
        limit = max(1, min(self._max_batch_images, self._max_batch_pixels // math.prod(kind[1])))
        batch = [queue.popitem(last=False)[0] for _ in range(min(limit, len(queue)))]
        if not queue:
            del self.queues[kind]
        self._count_queue()
        self.metrics.batch_fill.observe(len(batch) / limit)
        return batch

    async def _compute(self, batch: list[_Waiting]) -> None:
        """Answer every request of the batch, with its mask or with the failure of its own image.

        A failed batch is split into halves that are tried again. So an image that the engine cannot
        compute, or a batch that is too large for its memory, fails no other request.
        """
        loop = asyncio.get_running_loop()
        for waiting in batch:
            waiting.stages.enter("inference")
        canvases = [waiting.canvas for waiting in batch]
        self.metrics.batch_size.observe(len(batch))
        try:
            pixels = sum(canvas.computed_pixels for canvas in canvases)
            with self._watchdog.watching("batch", lambda: fail(batch), pixels=pixels):
                masks = await loop.run_in_executor(self.threads, batch[0].predict, canvases)
            answers = list(zip(batch, masks, strict=True))
        except DeviceLost:
            self.metrics.engine_failures.inc()
            log.exception("device lost")
            self.has_lost_device = True
            self._watchdog.give_up("device")
            return
        except Overloaded as error:  # an engine in another process has no place
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            return
        except Exception:
            self.metrics.engine_failures.inc()
            log.exception("batch failed", request_ids=[waiting.request_id for waiting in batch])
            half = len(batch) // 2
            for part in (batch[:half], batch[half:]) if half else ():  # a single one has no halves
                if remaining := [waiting for waiting in part if not waiting.answer.done()]:
                    await self._compute(remaining)
            return  # `_finish` answers those that have failed alone
        for waiting, mask in answers:
            if not waiting.answer.done():
                waiting.answer.set_result(mask)

    async def _answer_all(self) -> None:
        entries = chain(*self.computing.values(), *self.queues.values())
        answers = [waiting.answer for waiting in entries if not waiting.answer.done()]
        if answers and self.is_alive:
            await asyncio.wait(answers)
