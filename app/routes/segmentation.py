"""The work of one segmentation request: decode the upload, predict its mask, encode the answer.

Knows nothing of the request's headers and parameters; the handler has read them.
"""

from dataclasses import dataclass

from app.codecs.answers import Answer, make_answer
from app.codecs.decode import Decoded
from app.formats import AnswerFormat
from app.observability.stages import Stages
from app.scheduling.batcher import Batcher
from app.scheduling.budget import Share
from app.service import Service
from model.engines.base import Array
from model.predictor import Canvas, Predictor


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationTask:
    """One admitted upload on its way to its answer, with the weights that it began with."""

    service: Service
    predictor: Predictor
    batcher: Batcher
    stages: Stages
    upload: Share
    sent: Share
    """The share of the answers' budget: the answer's bytes until the socket has taken them."""
    answer: AnswerFormat
    accepts_gzip: bool
    max_side: int
    due: float
    """A reading of `time.perf_counter`."""

    async def run(self, data: bytes) -> Answer:
        """Return the answer to the upload. Raises the errors of each stage, Overloaded at `due`."""
        async with self.service.admission.admit(self.due) as place:
            self.stages.enter("decode")
            canvas = await self.service.codecs.decode(
                data,
                max_side=self.max_side,
                reserve=place.take,
                finish=self._prepare,
                held=(place, self.upload),
            )
            mask = await self.batcher.submit(
                self.predictor.predict, canvas, self.stages, held=place
            )
            self.stages.enter("encode")
            return await self.service.codecs.run(self._encode, mask, held=(place, self.sent))

    async def next_piece(self, answer: Answer) -> bytes | None:
        """Return the next piece of an answer that is sent in pieces, None after the last."""
        return await self.service.codecs.run(
            next, answer.pieces, None, held=(self.sent,), first=True
        )

    def _prepare(self, image: Decoded) -> Canvas:
        return self.predictor.prepare(image.pixels, max_side=self.max_side, size=image.size)

    def _encode(self, mask: Array) -> Answer:
        made = make_answer(
            mask, self.answer, self.predictor.metadata, accepts_gzip=self.accepts_gzip
        )
        self.sent.take(made.held_bytes)
        return made
