"""An engine replica: computes the masks of all ingress replicas' images, in batches.

The batcher is the server's own, not `serve.batch`, which waits for a timer, puts canvases of
different sizes together, and fails all images of a batch because of one. Knows nothing of HTTP.
"""

from contextlib import AsyncExitStack

from app.errors import InferenceFailed
from app.loading import choose_engine_options, start_here
from app.observability.gpus import find_gpus
from app.observability.logs import configure_logging
from app.observability.metrics import Metrics
from app.observability.stages import Stages
from app.process.ending import end_failed
from app.ray.exporter import exporting
from app.settings import Settings
from app.sharing.batching import BatchingEngine
from model.engines.base import Array
from model.errors import EngineError
from model.predictor import Canvas, Predictor, start_predictor
from model.weights import Weights


class EngineReplica:
    """One engine, its queue and its batches. Serve makes one in each actor."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        """Load the weights file, so that the replica is warm when it gets its first image."""
        configure_logging(level=settings.log_level, log_format=settings.log_format)
        self._stack = AsyncExitStack()
        metrics = Metrics(gpus=find_gpus())
        await self._stack.enter_async_context(exporting(metrics))
        # Serve would let a replica that cannot be recovered live until the next health checks have
        # failed. Meanwhile it would answer every image with a failure, and get most of them,
        # because its queue is always the shortest. When it ends, the ingress replicas give the
        # images that wait here to other replicas.
        self._engine = BatchingEngine(settings, metrics=metrics, give_up=end_failed)
        await self._stack.enter_async_context(self._engine.running())
        engine = (await self._engine.load(start_here)).engine
        self._description = engine.description, engine.device

    def describe(self) -> tuple[str, str]:
        """Return the engine's description and device."""
        return self._description

    async def segment(
        self, digest: str, canvas: Canvas, confidence: bool, weights: Weights | None
    ) -> Array | None:
        """Return the mask or the confidence of a canvas, or None without the weights `digest`.

        The caller then sends it again with the weights. Raises ModelError: its one argument is its
        text, so that Ray can send it to the caller, which it cannot do with InferenceFailed.
        """
        predictor = self._engine.find(digest)
        if predictor is None:
            if weights is None:
                return None
            predictor = await self._engine.load(lambda s: _start(weights, s), digest=digest)
        try:
            return await self._engine.compute(
                predictor, canvas, confidence=confidence, stages=Stages()
            )
        except InferenceFailed as error:
            raise EngineError(str(error)) from error

    async def check_health(self) -> None:
        """Raise if the engine is stuck; Serve then replaces the replica."""
        if not self._engine.is_alive:
            raise RuntimeError("the engine is stuck or its batcher has ended")

    async def __del__(self) -> None:
        await self._stack.aclose()


def _start(weights: Weights, settings: Settings) -> Predictor:
    return start_predictor(weights, **choose_engine_options(settings))
