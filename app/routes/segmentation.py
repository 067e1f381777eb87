"""The work of one segmentation request: decode the upload, predict its mask, encode the answer.

Knows nothing of the request's headers and parameters; the handler has read them.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from app.codecs.answers import Answer, make_answer
from app.codecs.base64_image import read_image
from app.codecs.decode import Decoded
from app.formats import AnswerFormat, AnswerOptions
from app.http.uploads import run_while_connected
from app.observability.stages import Stages
from app.scheduling.batcher import Batcher, Predict
from app.scheduling.budget import Share
from app.service import Service
from model.engines.base import Array
from model.predictor import Canvas, Predictor

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The work of a request with images, with the weights that it began with."""

    service: Service
    predictor: Predictor
    batcher: Batcher
    stages: Stages
    upload: Share
    sent: Share
    """The share of the answers' budget: the answer's bytes until the socket has taken them."""
    options: AnswerOptions
    max_side: int
    due: float
    """A reading of `time.perf_counter`."""

    async def next_piece(self, answer: Answer) -> bytes | None:
        """Return the next piece of an answer that is sent in pieces, None after the last."""
        return await self.service.codecs.run(
            next, answer.pieces, None, held=(self.sent,), first=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationTask(Task):
    """One admitted upload on its way to its answer."""

    is_base64: bool = False
    """Whether the upload is JSON with the image in base64."""

    async def run(self, data: bytes) -> Answer:
        """Return the answer to the upload. Raises the errors of each stage, Overloaded at `due`."""
        async with self.service.admission.admit(self.due) as place:
            self.stages.enter("decode")
            if self.is_base64:
                data = await self.service.codecs.run(read_image, data, held=(place, self.upload))
            canvas = await self._decode(data, place)
            mask = await self.batcher.submit(self._predict, canvas, self.stages, held=place)
            self.stages.enter("encode")
            photo = None
            if self.options.format is AnswerFormat.OVERLAY:
                photo = await self._show(data, canvas, place)
            return await self.service.codecs.run(self._encode, mask, photo, held=(place, self.sent))

    async def _decode(self, data: bytes, place: Share) -> Canvas:
        return await self.service.codecs.decode(
            data,
            max_side=self.max_side,
            reserve=place.take,
            finish=self._prepare,
            held=(place, self.upload),
        )

    @property
    def _predict(self) -> Predict:
        if self.options.format is AnswerFormat.CONFIDENCE:
            return self.predictor.measure_confidence
        return self.predictor.predict

    async def _show(self, data: bytes, canvas: Canvas, place: Share) -> Array:
        """Return the photo (H, W, 3) at the upload's size, decoded again if it was scaled."""
        (height, width), output = canvas.region.content, canvas.region.output
        if (height, width) == output:
            return canvas.pixels[:height, :width].copy()
        return await self.service.codecs.decode(
            data,
            max_side=0,
            reserve=place.take,
            finish=lambda image: image.pixels,
            held=(place, self.upload),
        )

    def _prepare(self, image: Decoded) -> Canvas:
        return self.predictor.prepare(image.pixels, max_side=self.max_side, size=image.size)

    def _encode(self, mask: Array, photo: Array | None) -> Answer:
        made = make_answer(mask, self.options, self.predictor.metadata, photo=photo)
        self.sent.take(made.held_bytes)
        return made


async def carry_out(
    request: Request,
    task: Task,
    work: Callable[[U], Coroutine[Any, Any, T]],
    *,
    read: Callable[[Request, float], Awaitable[U]],
) -> T:
    """Read the upload and return what `work` makes of it, unless the client disconnects before.

    `read` gets the request and when the upload must have come. Raises the errors of both, and
    Overloaded.
    """
    task.service.admission.require_place(task.due)  # before the body is read, and again afterwards
    task.stages.enter("read")
    upload = await read(request, task.due)
    result = await run_while_connected(request, work(upload))
    task.upload.end()
    task.stages.enter("send")
    return result
