"""An engine whose calls are computed by the engine replicas of a Ray cluster.

Each call is one image: the replicas form the batches, because only they see the images of all
ingress replicas. Knows nothing of HTTP, nor of how the replicas compute.
"""

import time
from collections.abc import Sequence
from typing import Any

import structlog
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from app.scheduling.admission import make_overloaded
from app.settings import Settings
from model.engines.base import Array, Region
from model.errors import EngineError
from model.predictor import Canvas, Predictor, use_engine
from model.weights import Weights, read_weights

ATTEMPTS = 3
"""The number of replicas that an image is given to if they end meanwhile: an image that ends every
engine must not end them all.
"""

MAX_CALLERS = 256
"""The largest number of images that an ingress replica has at the engine replicas. Each has a
thread that waits for it.
"""

log = structlog.get_logger("segmentation")


class RemoteEngine:
    """An `Engine` for one weights file."""

    images_per_call = 1

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        weights: Weights,
        *,
        callers: int,
        timeout_s: float,
    ) -> None:
        """Ask a replica what it is; waits until there is one. Raises EngineError."""
        self._handle = handle
        self._weights = weights
        self._timeout_s = timeout_s
        self.callers_at_once = min(callers, MAX_CALLERS)
        try:
            described = handle.describe.remote().result(timeout_s=timeout_s)
        except (TimeoutError, RayActorError) as error:
            raise EngineError(f"no engine replica has answered within {timeout_s:g} s") from error
        self.description, self.device = described

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """Raises Overloaded and EngineError."""
        return [self._ask(*pair, False) for pair in zip(canvases, regions, strict=True)]

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """Raises Overloaded and EngineError."""
        return [self._ask(*pair, True) for pair in zip(canvases, regions, strict=True)]

    def _ask(self, pixels: Array, region: Region, confidence: bool) -> Array:
        """Return what a replica computes; another is asked if it ends before.

        The weights go along only if the replica does not have them, after a reload.
        """
        until, failures = time.monotonic() + self._timeout_s, 0
        weights = None
        while True:
            response = self._handle.segment.remote(
                self._weights.metadata.digest, Canvas(pixels, region), confidence, weights
            )
            try:
                mask: Array | None = response.result(timeout_s=max(0, until - time.monotonic()))
            except TimeoutError as error:
                response.cancel()  # type: ignore[no-untyped-call]
                raise make_overloaded("No engine replica was free.", "engine", 1) from error
            except BackPressureError as error:
                raise make_overloaded("All engine replicas are full.", "engine", 1) from error
            except RayActorError as error:
                failures += 1
                log.warning("engine replica ended", attempt=failures)
                if failures == ATTEMPTS:
                    raise EngineError(f"{ATTEMPTS} engine replicas ended") from error
                continue
            if mask is not None:
                return mask
            assert weights is None, "a replica keeps the weights that come along"
            weights = self._weights


def start_remotely(settings: Settings, handle: DeploymentHandle[Any]) -> Predictor:
    """Return a predictor with the weights file whose masks the engine replicas compute.

    Raises WeightsError, and EngineError if they do not compute this file's network.
    """
    weights = read_weights(settings.weights)
    engine = RemoteEngine(
        handle, weights, callers=settings.max_queue, timeout_s=settings.deadline_s
    )
    return use_engine(engine, weights, max_side=settings.max_side)
