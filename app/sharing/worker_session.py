"""The session of one worker in an engine process: computes its images, until the worker ends.

Knows nothing of batches and of other workers.
"""

import asyncio
import mmap
import os
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from socket import socket
from typing import Any

import numpy as np
import structlog

from app.errors import InferenceFailed
from app.loading import explain_failure, start_here
from app.observability.stages import Stages
from app.settings import Settings
from app.sharing.batching import BatchingEngine
from app.sharing.channel import Channel
from app.sharing.memory import Frame, map_memory
from app.sharing.messages import (
    VERSION,
    Cancel,
    Done,
    Dropped,
    Failed,
    Hello,
    Load,
    Loaded,
    MalformedMessage,
    Message,
    Ping,
    Pong,
    Refused,
    Segment,
    Unknown,
    Welcome,
)
from model.engines.base import Array, Region
from model.errors import DeviceLost, EngineError
from model.predictor import CANVAS_MULTIPLE, Canvas, Predictor

MAX_TASKS = 1024
"""The limit of the unfinished work of one worker. A worker that sends more is faulty."""

INLINE_BYTES = 2**20
"""The largest mask that the event loop copies. Others are copied on a thread meanwhile."""

log = structlog.get_logger("segmentation")


class WorkerSession:
    """Serves one connection. `on_end` is called when the worker and all its images have ended."""

    def __init__(
        self,
        connection: socket,
        engine: BatchingEngine,
        *,
        number: int,
        on_end: Callable[["WorkerSession"], None],
    ) -> None:
        """`number` is the engine's, among those of the machine."""
        self._engine = engine
        self._number = number
        self._on_end = on_end
        self._memory: mmap.mmap | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._channel = Channel(connection, on_message=self._receive, on_end=self._end)

    def _end(self) -> None:
        """Drop all images of a worker that has ended."""
        for task in self._tasks.values():
            task.cancel()
        if not self._tasks:
            self._on_end(self)

    def _receive(self, message: Message, descriptor: int | None) -> None:
        if isinstance(message, Hello) and self._memory is None:
            if message.number != VERSION:
                raise MalformedMessage(f"version {message.number} instead of {VERSION}")
            self._memory = map_memory(descriptor)
            self._channel.send(Welcome(VERSION, os.getpid()))
        elif self._memory is None:
            raise MalformedMessage(f"{type(message).__name__} comes before Hello")
        elif isinstance(message, Load) and descriptor is not None:
            self._begin(message.number, self._load(message, os.dup(descriptor)))
        elif isinstance(message, Segment):
            frame = self._find_frame(message, descriptor)
            self._begin(message.number, self._answer(message, frame))
        elif isinstance(message, Cancel):
            if (task := self._tasks.get(message.number)) is not None:
                # Later: a task that is cancelled before its first step would not answer.
                asyncio.get_running_loop().call_soon(task.cancel)
        elif isinstance(message, Ping):
            self._channel.send(Pong())
        else:
            raise MalformedMessage(f"{type(message).__name__} comes from a worker")

    def _begin(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        if number in self._tasks or len(self._tasks) >= MAX_TASKS:
            work.close()
            raise MalformedMessage(f"work {number} is one of {len(self._tasks)} already")
        self._tasks[number] = task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        del self._tasks[number]
        if not (self._channel.is_open or self._tasks):
            self._on_end(self)

    def _find_frame(self, message: Segment, descriptor: int | None) -> Frame:
        memory = self._memory if descriptor is None else map_memory(descriptor)
        assert memory is not None
        canvas = message.height, message.width
        if message.height % CANVAS_MULTIPLE or message.width % CANVAS_MULTIPLE:
            raise MalformedMessage(f"{canvas} is no size of a canvas")
        if not (
            0 < message.content_height <= message.height
            and 0 < message.content_width <= message.width
        ):
            raise MalformedMessage("a picture is larger than its canvas")
        return Frame(memory, message.offset, canvas, (message.output_height, message.output_width))

    async def _load(self, message: Load, descriptor: int) -> None:
        digest = message.digest.hex()
        with closing(_Descriptor(descriptor)) as file:
            try:
                predictor = await self._engine.load(
                    lambda settings: _start(settings, file.path, self._number, digest),
                    digest=digest,
                )
            except DeviceLost:
                log.exception("device lost")
                self._engine.give_up(True)
                return
            except Exception as error:
                log.exception("weights refused", weights=digest)
                text = explain_failure(error).replace(
                    str(file.path), str(self._engine.settings.weights)
                )
                self._channel.send(Refused(message.number, text))
                return
        engine = predictor.engine
        images = engine.callers_at_once * engine.images_per_call
        self._channel.send(Loaded(message.number, images, engine.device, engine.description))

    async def _answer(self, message: Segment, frame: Frame) -> None:
        """Compute an image and answer: exactly once, and after the last use of its frame."""
        structlog.contextvars.bind_contextvars(request_id=message.request_id)
        hold = _Hold()
        try:
            answer = await self._compute(message, frame, hold)
        except InferenceFailed:
            answer = Failed(message.number)
        except asyncio.CancelledError:
            answer = Dropped(message.number)
            await hold.ended.wait()
        self._channel.send(answer)

    async def _compute(self, message: Segment, frame: Frame, hold: "_Hold") -> Message:
        predictor = self._engine.find(message.digest.hex())
        if predictor is None:
            return Unknown(message.number)
        content = message.content_height, message.content_width
        canvas = Canvas(
            frame.canvas, Region(content, (message.output_height, message.output_width))
        )
        stages = _FrameStages(frame)
        mask = await self._engine.compute(
            predictor, canvas, confidence=message.confidence, stages=stages, held=hold
        )
        if mask.nbytes > INLINE_BYTES:
            await _copy_on_thread(frame.mask, mask, hold)
        else:
            np.copyto(frame.mask, mask)
        stages.enter("")
        inference_us = round(stages.seconds.get("inference", 0) * 1e6)
        return Done(message.number, min(inference_us, 2**32 - 1))


def _start(settings: Settings, path: Path, number: int, digest: str) -> Predictor:
    changed = settings.model_copy(update={"weights": path})
    predictor = start_here(changed, number=number)
    if predictor.metadata.digest != digest:
        raise EngineError(f"{path}: the file has changed while it was read. Load it again")
    return predictor


async def _copy_on_thread(target: Array, source: Array, hold: "_Hold") -> None:
    """Copy, and hold the image until then, even if it is cancelled: its frame is in use."""
    hold.keep()
    copying = asyncio.get_running_loop().run_in_executor(None, np.copyto, target, source)
    copying.add_done_callback(lambda _: hold.let_go())
    await asyncio.shield(copying)


class _Descriptor:
    """An open file that is read by its path below /proc, even if its name is another's by now."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.path = Path(f"/proc/self/fd/{descriptor}")

    def close(self) -> None:
        os.close(self._descriptor)


class _Hold:
    """Knows when a cancelled image is not computed any more."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.ended.set()

    def keep(self) -> None:
        self.ended.clear()

    def let_go(self) -> None:
        self.ended.set()


class _FrameStages(Stages):
    """The stages of an image, which mark its frame when the computation begins."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self._frame = frame

    def enter(self, stage: str, *, ago_s: float = 0) -> None:
        super().enter(stage, ago_s=ago_s)
        if stage == "inference":
            self._frame.begin()
