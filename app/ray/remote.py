"""An engine whose calls are computed by the engine replicas of a Ray cluster.

Each call is one image: the replicas form the batches, because only they see the images of all
ingress replicas. Knows nothing of HTTP, nor of how the replicas compute.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

import ray
import structlog
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from app.ray.calls import Calls
from app.scheduling.admission import make_overloaded
from app.settings import Settings
from model.engines.base import Array, Region
from model.errors import EngineError, ModelError
from model.predictor import Canvas, Predictor, use_engine
from model.weights import Weights, read_weights

ATTEMPTS = 3
"""The number of replicas that an image is given to if they end meanwhile: an image that ends every
engine must not end them all.
"""

ENDED = (RayActorError, ObjectLostError, WorkerCrashedError, NodeDiedError, OutOfMemoryError)
"""The errors of a call whose replica or machine has ended. ObjectLostError is raised if that
happens after the replica has answered, before the answer is here.
"""

MAX_CALLERS = 256
"""The largest number of images that an ingress replica has at the engine replicas. Each has a
thread that waits for it.
"""

T = TypeVar("T")

log = structlog.get_logger("segmentation")


class RayEngine:
    """An `Engine` for one weights file."""

    images_per_call = 1

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        weights: Weights,
        *,
        callers: int,
        timeout_s: float,
        start_timeout_s: float = math.inf,
        share: Callable[[Weights], Any] = ray.put,
        calls: Calls | None = None,
    ) -> None:
        """Ask a replica for its description; waits until there is one, at most `start_timeout_s`.

        `share` puts the weights where all replicas can read them, and returns the reference.
        `calls` is common to the engines of a service. Raises Overloaded and EngineError.
        """
        self._calls = calls or Calls()
        self._handle = handle
        self._weights = weights
        self._timeout_s = timeout_s
        self._share = share
        self._shared: Any = None
        self._sharing = threading.Lock()
        self.callers_at_once = min(callers, MAX_CALLERS)
        until = time.monotonic() + start_timeout_s
        self.description, self.device = try_replicas(
            lambda: wait_for(handle.describe.remote(), until=until)
        )

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """Raises Overloaded and EngineError."""
        return [self._compute(*pair, False) for pair in zip(canvases, regions, strict=True)]

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """Raises Overloaded and EngineError."""
        return [self._compute(*pair, True) for pair in zip(canvases, regions, strict=True)]

    def abandon(self, pixels: Array) -> None:
        """Cancel the image with this canvas, whose caller has left. Does not block."""
        self._calls.cancel(pixels)

    def _compute(self, pixels: Array, region: Region, confidence: bool) -> Array:
        """Return what a replica computes.

        The weights go along only if the replica does not have them, after a reload.
        """
        until = time.monotonic() + self._timeout_s
        image = self._weights.metadata.digest, Canvas(pixels, region), confidence

        def compute() -> Array:
            mask = self._call(pixels, *image, None, until=until)
            if mask is None:
                mask = self._call(pixels, *image, self._share_weights(), until=until)
            assert mask is not None, "a replica keeps the weights that come along"
            return mask

        return try_replicas(compute)

    def _call(self, pixels: Array, *arguments: object, until: float) -> Array | None:
        response = self._handle.segment.remote(*arguments)
        with self._calls.keep(pixels, response):
            mask: Array | None = wait_for(response, until=until)
            return mask

    def _share_weights(self) -> Any:
        """Return the reference of the weights: all images that wait for them share one copy."""
        with self._sharing:
            if self._shared is None:
                self._shared = self._share(self._weights)
            return self._shared


class RemoteStart:
    """Starts predictors whose masks the engine replicas compute."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._calls = Calls()
        self._has_started = False

    def __call__(self, settings: Settings) -> Predictor:
        """Return a predictor with the weights file.

        The first call waits for as long as an engine replica needs to start: Serve itself reports
        one that cannot. Later calls, which are reloads, wait for the deadline of a request.

        Raises WeightsError, Overloaded, and EngineError if no replica computes this file's network.
        """
        weights = read_weights(settings.weights)
        engine = RayEngine(
            self._handle,
            weights,
            callers=settings.max_queue,
            timeout_s=settings.deadline_s,
            start_timeout_s=settings.deadline_s if self._has_started else math.inf,
            calls=self._calls,
        )
        self._has_started = True
        return use_engine(engine, weights, scaling=settings.scaling)


def try_replicas(compute: Callable[[], T]) -> T:
    """Return what `compute` returns; call it again, for another replica, if the first has ended."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return compute()
        except ENDED as error:
            log.warning("engine replica ended", attempt=attempt, error=type(error).__name__)
            last = error
    raise EngineError(f"{ATTEMPTS} engine replicas ended") from last


def wait_for(response: Any, *, until: float) -> Any:
    """Return a replica's answer, which must be here at `until`, a reading of `time.monotonic`.

    Raises those of ENDED, Overloaded if no replica is free or the call is cancelled, and
    EngineError if the replica fails. Its message has none of the remote traceback, because callers
    of the service may see it.
    """
    left_s = None if math.isinf(until) else max(0, until - time.monotonic())
    try:
        return response.result(timeout_s=left_s)
    except ENDED:
        raise
    except BackPressureError as error:
        raise make_overloaded(
            "All engine replicas are full.", reason="engine", seconds=1
        ) from error
    except DeploymentUnavailableError as error:
        raise make_overloaded("There is no engine replica.", reason="engine", seconds=1) from error
    except (TaskCancelledError, CancelledError) as error:  # its caller has left, or Serve did it
        raise make_overloaded(
            "The engine replica has dropped the image.", reason="engine", seconds=1
        ) from error
    except RayTaskError as error:
        cause = error.cause
        log.error("engine replica failed", error=repr(cause))  # the traceback is in its own log
        text = str(cause) if isinstance(cause, ModelError) else "an engine replica failed"
        raise EngineError(text) from error
    except TimeoutError as error:
        response.cancel()
        raise make_overloaded("No engine replica was free.", reason="engine", seconds=1) from error
