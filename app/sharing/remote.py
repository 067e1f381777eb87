"""An engine whose images engine processes compute, and one of these images.

Knows nothing of connections.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType

from app.observability.request_id import get_request_id
from app.observability.stages import Stages
from app.scheduling.batcher import Predict
from app.scheduling.budget import Held
from app.sharing.memory import SMALL_BYTES, Frame, SharedMemory, count_frame_bytes
from app.sharing.messages import Loaded
from model.engines.base import Array, Region
from model.predictor import Canvas, Predictor

ComputeAll = Callable[["RemoteEngine", Sequence[Canvas], bool], list[Array]]
"""A function that computes masks, or with True confidences, and blocks its thread meanwhile."""


class RemoteEngine:
    """An `Engine` for one weights file. The service itself gives images to the dispatcher."""

    callers_at_once = 1
    images_per_call = 1

    def __init__(self, path: Path, digest: str, compute_all: ComputeAll) -> None:
        """Keep the file open: an engine that starts later gets the same weights."""
        self.digest = digest
        self.description = self.device = "not started"
        self._file = path.open("rb")
        self._compute_all = compute_all

    def describe(self, loaded: Sequence[Loaded]) -> None:
        """Describe the engines that have loaded the weights."""
        self.description = "; ".join(sorted({one.description for one in loaded}))
        self.device = ", ".join(sorted({one.device for one in loaded}))

    def open_weights(self) -> int:
        """Return a descriptor of the weights file."""
        return os.dup(self._file.fileno())

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """Raises InferenceFailed."""
        return self._compute_all(self, _join(canvases, regions), False)

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """Raises InferenceFailed."""
        return self._compute_all(self, _join(canvases, regions), True)


def _join(canvases: Sequence[Array], regions: Sequence[Region]) -> list[Canvas]:
    return [Canvas(*pair) for pair in zip(canvases, regions, strict=True)]


def find_work(predict: Predict) -> tuple[RemoteEngine, bool]:
    """Return the engine of a predictor's method, and whether it measures the confidence."""
    assert isinstance(predict, MethodType)
    predictor = predict.__self__
    assert isinstance(predictor, Predictor)
    assert isinstance(predictor.engine, RemoteEngine)
    return predictor.engine, predict == predictor.measure_confidence


@dataclass(eq=False, slots=True)
class Image:
    """One image of this worker, from the queue to its answer."""

    engine: RemoteEngine
    canvas: Canvas
    confidence: bool
    stages: Stages
    held: Held | None
    answer: asyncio.Future[Array]
    since: float = field(default_factory=time.time)
    """The Unix time of its arrival."""
    request_id: str = field(default_factory=get_request_id)
    cancel: Callable[[], None] | None = None
    """A function that drops the image, while an engine process has it."""
    ended: int = 0
    """The number of engine processes that have ended while they computed it."""
    own: SharedMemory | None = None
    """The memory of a large image, which is its own."""
    _is_over: bool = False

    def keep(self) -> None:
        """Keep what the request holds, until `end`."""
        if self.held is not None:
            self.held.keep()

    @property
    def is_large(self) -> bool:
        """Whether it needs memory of its own."""
        return count_frame_bytes(self.canvas.size, self.canvas.region.output) > SMALL_BYTES

    async def fill_own_memory(self, threads: ThreadPoolExecutor) -> None:
        """Write a large image to shared memory on a thread. Ends the image if it fails.

        If it is cancelled, the image ends when the thread is done.
        """
        try:
            output = self.canvas.region.output
            self.own = SharedMemory(count_frame_bytes(self.canvas.size, output))
            frame = Frame(self.own.map, 0, self.canvas.size, output)
            filling = asyncio.wrap_future(threads.submit(frame.fill, self.canvas))
        except BaseException:
            self.end()
            raise
        try:
            await asyncio.shield(filling)
        except BaseException:
            filling.add_done_callback(lambda _: self.end())
            raise

    def end(self) -> None:
        """Release what it holds: nothing computes it any more. May be called again."""
        if self._is_over:
            return
        self._is_over = True
        if self.own is not None:
            self.own.close()
        if self.held is not None:
            self.held.let_go()
