"""An engine replica: computes the masks of all ingress replicas' images, in batches.

The batcher is the server's own, not `serve.batch`, which waits for a timer, puts canvases of
different sizes together, and fails all images of a batch because of one. Knows nothing of HTTP.
"""

import asyncio
from collections import OrderedDict
from contextlib import AsyncExitStack

from app.errors import InferenceFailed
from app.loading import choose_engine_options, load
from app.observability.gpus import find_gpus
from app.observability.logs import configure_logging
from app.observability.metrics import Metrics
from app.observability.stages import Stages
from app.process.ending import EXIT_DEAD, EXIT_DEVICE_LOST, end_process
from app.ray.exporter import exporting
from app.scheduling.batcher import Batcher
from app.scheduling.watchdog import Watchdog
from app.settings import Settings
from model.engines.base import Array
from model.errors import EngineError
from model.predictor import Canvas, Predictor, start_predictor
from model.weights import Weights

KEPT = 2
"""The number of weights that a replica keeps ready: those of before and after a reload."""


class EngineReplica:
    """One engine, its queue and its batches. Serve makes one in each actor."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load the weights file, so that the replica is warm when it gets its first image."""
        configure_logging(level=settings.log_level, log_format=settings.log_format)
        self._settings = settings
        self._stack = AsyncExitStack()
        self._loading = asyncio.Lock()
        self._predictors: OrderedDict[str, Predictor] = OrderedDict()
        metrics = Metrics(gpus=find_gpus())
        await self._stack.enter_async_context(exporting(metrics))
        watchdog = Watchdog(stuck_after_s=settings.stuck_after_s, on_death=self._give_up)
        predictor = await load(settings)
        self._engine = predictor.engine
        self._batcher = Batcher(
            concurrency=predictor.engine.callers_at_once,
            max_batch_pixels=settings.max_batch_pixels,
            max_batch_images=predictor.engine.images_per_call,
            watchdog=watchdog,
            metrics=metrics,
        )
        await self._stack.enter_async_context(self._batcher.running())
        self._keep(predictor)

    def describe(self) -> tuple[str, str]:
        """Return the engine's description and device."""
        return self._engine.description, self._engine.device

    async def segment(
        self, digest: str, canvas: Canvas, confidence: bool, weights: Weights | None
    ) -> Array | None:
        """Return the mask or the confidence of a canvas, or None without the weights `digest`.

        The caller then sends it again with the weights. Raises ModelError: its one argument is its
        text, so that Ray can send it to the caller, which it cannot do with InferenceFailed.
        """
        predictor = self._predictors.get(digest)
        if predictor is None:
            if weights is None:
                return None
            predictor = await self._learn(weights)
        predict = predictor.measure_confidence if confidence else predictor.predict
        try:
            return await self._batcher.submit(predict, canvas, Stages())
        except InferenceFailed as error:
            raise EngineError(str(error)) from error

    async def check_health(self) -> None:
        """Raise if the engine is stuck; Serve then replaces the replica."""
        if not self._batcher.is_alive:
            raise RuntimeError("the engine is stuck or its batcher has ended")

    async def __del__(self) -> None:
        await self._stack.aclose()

    async def _learn(self, weights: Weights) -> Predictor:
        digest = weights.metadata.digest
        async with self._loading:
            if digest not in self._predictors:
                self._keep(await load(self._settings, start=lambda s: _start(weights, s)))
            return self._predictors[digest]

    def _keep(self, predictor: Predictor) -> None:
        self._predictors[predictor.metadata.digest] = predictor
        while len(self._predictors) > KEPT:
            self._predictors.popitem(last=False)

    def _give_up(self) -> None:
        """End the process, because its engine cannot be recovered.

        Serve would let it live until the next health checks have failed. Meanwhile it would answer
        every image with a failure, and get most of them, because its queue is always the shortest.
        When it ends, the ingress replicas give the images that wait here to other replicas.
        """
        end_process(EXIT_DEVICE_LOST if self._batcher.has_lost_device else EXIT_DEAD)


def _start(weights: Weights, settings: Settings) -> Predictor:
    return start_predictor(weights, **choose_engine_options(settings))
