"""The work of one segmentation request: decodes the upload, predicts its mask, encodes the answer.

Knows nothing of headers and parameters; the handlers read them.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from app.codecs.answers import Answer, make_answer
from app.codecs.base64_image import read_image
from app.codecs.bounds import bound_answer
from app.codecs.decode import Decoded
from app.codecs.pool import CodecPool
from app.formats import AnswerFormat, AnswerOptions
from app.http.uploads import run_while_connected
from app.observability.stages import Stages
from app.scheduling.batcher import Predict
from app.scheduling.budget import Share
from app.service import Service
from app.sharing.dispatcher import Scheduler
from model.engines.base import Array
from model.predictor import Canvas, Predictor
from model.scaling import UNSCALED, Scaling

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestContext:
    """What all work for one request uses. It keeps the weights that the request started with."""

    service: Service
    predictor: Predictor
    batcher: Scheduler
    stages: Stages
    upload_share: Share
    """The share of the uploads' budget: the bytes of the request's body."""
    answer_share: Share
    """The share of the answers' budget: the answer's bytes until the socket has taken them."""

    @property
    def codecs(self) -> CodecPool:
        """The service's threads and processes that decode and encode."""
        return self.service.codecs

    def find_due(self, timeout_s: float | None = None) -> float:
        """Return the request's deadline, a reading of `time.perf_counter`.

        `timeout_s` are the seconds that the client waits; None means SEG_DEADLINE_S.
        """
        limit_s = self.service.settings.deadline_s
        return self.stages.started + min(timeout_s or limit_s, limit_s)


def open_context(request: Request) -> RequestContext:
    """Return the context of a request. Raises NotReady while requests are refused."""
    service: Service = request.app.state.service
    return RequestContext(
        service=service,
        predictor=service.predictor,
        batcher=service.batcher,
        stages=request.scope["stages"],
        upload_share=request.scope["upload_share"],
        answer_share=request.scope["answer_share"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The work of a request with one or several images."""

    context: RequestContext
    options: AnswerOptions
    scaling: Scaling
    due: float
    """The deadline, a reading of `time.perf_counter`."""

    async def next_piece(self, answer: Answer) -> bytes | None:
        """Return the next piece of an answer that is sent in pieces, None after the last."""
        context = self.context
        return await context.codecs.run(
            next, answer.pieces, None, held=(context.answer_share,), first=True
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationTask(Task):
    """The work of a request with one image."""

    is_base64: bool = False
    """Whether the upload is JSON with the image in base64."""

    async def run(self, data: bytes) -> Answer:
        """Return the answer to the upload. Raises the errors of each stage, Overloaded at `due`."""
        context = self.context
        async with context.service.admission.admit(self.due) as place:
            context.stages.enter("decode")
            if self.is_base64:
                data = await context.codecs.run(
                    read_image, data, held=(place, context.upload_share)
                )
            canvas = await self._decode(data, place)
            mask = await context.batcher.submit(self._predict, canvas, context.stages, held=place)
            context.stages.enter("encode")
            photo = None
            if self.options.format is AnswerFormat.OVERLAY:
                photo = await self._restore_photo(data, canvas, place)
            return await context.codecs.run(
                self._encode, mask, photo, held=(place, context.answer_share)
            )

    async def _decode(self, data: bytes, place: Share) -> Canvas:
        return await self.context.codecs.decode(
            data,
            scaling=self.scaling,
            reserve=place.take,
            finish=self._prepare,
            held=(place, self.context.upload_share),
        )

    @property
    def _predict(self) -> Predict:
        if self.options.format is AnswerFormat.CONFIDENCE:
            return self.context.predictor.measure_confidence
        return self.context.predictor.predict

    async def _restore_photo(self, data: bytes, canvas: Canvas, place: Share) -> Array:
        """Return the photo (H, W, 3) at the upload's size, decoded again if it was scaled."""
        (height, width), output = canvas.region.content, canvas.region.output
        if (height, width) == output:
            place.take(height * width)
            photo = canvas.pixels[:height, :width]
            return await self.context.codecs.run(photo.copy, held=(place,), first=True)
        return await self.context.codecs.decode(
            data,
            scaling=UNSCALED,
            reserve=place.take,
            finish=lambda image: image.pixels,
            held=(place, self.context.upload_share),
        )

    def _prepare(self, image: Decoded) -> Canvas:
        predictor = self.context.predictor
        return predictor.prepare(image.pixels, scaling=self.scaling, size=image.size)

    def _encode(self, mask: Array, photo: Array | None) -> Answer:
        """Encode the answer. Its bound is counted before, and its own bytes afterwards."""
        metadata, share = self.context.predictor.metadata, self.context.answer_share
        bound = bound_answer(mask, self.options, metadata)
        self._take(bound)
        try:
            made = make_answer(mask, self.options, metadata, photo=photo)
        except BaseException:
            share.give_back(bound)
            raise
        share.give_back(max(0, bound - made.held_bytes))
        self._take(max(0, made.held_bytes - bound))
        return made

    def _take(self, held_bytes: int) -> None:
        """Count bytes of the answer. Raises Overloaded, and ShareEnded if the request is over."""
        self.context.answer_share.take(held_bytes)


async def carry_out(
    request: Request,
    task: Task,
    work: Callable[[U], Coroutine[Any, Any, T]],
    *,
    read: Callable[[Request, float], Awaitable[U]],
) -> T:
    """Read the upload and return the result of `work`, which is cancelled on a disconnect.

    `read` gets the request and its deadline. Raises the errors of both, Overloaded, and
    ClientDisconnect.
    """
    context = task.context
    context.service.admission.require_place(task.due)  # before the body is read; `work` asks again
    context.stages.enter("read")
    upload = await read(request, task.due)
    result = await run_while_connected(request, work(upload))
    context.upload_share.end()
    context.stages.enter("send")
    return result
