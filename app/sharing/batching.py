"""One engine for the images of several processes: its queue, its batches, its weights by digest.

Knows nothing of how images come here, nor of HTTP.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from app.loading import Start, load
from app.observability.metrics import Metrics
from app.observability.stages import Stages
from app.scheduling.batcher import Batcher
from app.scheduling.budget import Held
from app.scheduling.watchdog import Watchdog
from app.settings import Settings
from model.engines.base import Array
from model.predictor import Canvas, Predictor

KEPT = 2
"""The number of weights that are kept ready: those of before and after a reload."""


class BatchingEngine:
    """Computes with the weights that it has loaded. Its one batcher starts with the first ones."""

    def __init__(
        self, settings: Settings, *, metrics: Metrics, give_up: Callable[[bool], None]
    ) -> None:
        """`give_up` is called when the engine cannot be recovered, with whether its device is lost.

        It should end the process: what waits here can be computed elsewhere.
        """
        self.settings = settings
        self.give_up = give_up
        self._metrics = metrics
        self._watchdog = Watchdog(stuck_after_s=settings.stuck_after_s, on_death=self._die)
        self._loading = asyncio.Lock()
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()
        self._batcher: Batcher | None = None
        self._stack = AsyncExitStack()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Compute during the block; at its end, first answer what waits."""
        async with self._stack:
            yield

    @property
    def is_alive(self) -> bool:
        """Whether batches are formed, or nothing is loaded yet, and no engine call is stuck."""
        return self._batcher is None or self._batcher.is_alive

    def find(self, digest: str) -> Predictor | None:
        """Return the predictor with these weights, if they are kept."""
        predictor = self._predictors.get(digest)
        if predictor is not None:
            self._predictors.move_to_end(digest)
        return predictor

    async def load(self, start: Start, *, digest: str | None = None) -> Predictor:
        """Return a predictor that `start` has started, unless there is one with this digest.

        Raises ModelError.
        """
        async with self._loading:
            known = self.find(digest) if digest is not None else None
            if known is not None:
                return known
            predictor = await load(self.settings, start=start)
            if self._batcher is None:
                self._batcher = Batcher.for_engine(
                    predictor.engine,
                    max_batch_pixels=self.settings.max_batch_pixels,
                    watchdog=self._watchdog,
                    metrics=self._metrics,
                )
                await self._stack.enter_async_context(self._batcher.running())
            self._predictors[predictor.metadata.digest] = predictor
            while len(self._predictors) > KEPT:
                self._predictors.popitem(last=False)
            return predictor

    async def compute(
        self,
        predictor: Predictor,
        canvas: Canvas,
        *,
        confidence: bool,
        stages: Stages,
        held: Held | None = None,
    ) -> Array:
        """Return the mask of a canvas, or its confidence, in a batch. Raises InferenceFailed."""
        assert self._batcher is not None
        predict = predictor.measure_confidence if confidence else predictor.predict
        return await self._batcher.submit(predict, canvas, stages, held=held)

    def _die(self) -> None:
        self.give_up(self._batcher is not None and self._batcher.has_lost_device)
