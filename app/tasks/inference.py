"""The work of one request of the Open Inference Protocol: reads tensors, returns the mask as one.

Knows nothing of headers; the handler reads them.
"""

from dataclasses import dataclass
from functools import partial

from app.codecs.answers import Answer
from app.codecs.costs import require_few_pixels
from app.codecs.tensor_answers import make_tensor_answer
from app.codecs.tensors import InferenceRequest, read_request
from app.http.paths import MODEL_NAME, MODEL_VERSION
from app.scheduling.budget import Share
from app.tasks.segmentation import SegmentationTask
from model.engines.base import Array
from model.predictor import Canvas


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceTask(SegmentationTask):
    """The work of an inference request with one image."""

    json_bytes: int | None
    """The length of the JSON before the binary data; None if the whole body is JSON."""

    async def infer(self, data: bytes) -> tuple[Answer, int | None]:
        """Return the answer, and the length of its JSON if binary data follows.

        Raises the errors of each stage, Overloaded at `due`.
        """
        context = self.context
        async with context.service.admission.admit(self.due) as place:
            context.stages.enter("decode")
            wanted = await context.codecs.run(
                read_request, data, self.json_bytes, held=(place, context.upload_share)
            )
            canvas = await self._prepare_input(wanted, place)
            mask = await context.batcher.submit(
                context.predictor.predict, canvas, context.stages, held=place
            )
            context.stages.enter("encode")
            return await context.codecs.run(
                self._write, wanted, mask, held=(place, context.answer_share)
            )

    async def _prepare_input(self, wanted: InferenceRequest, place: Share) -> Canvas:
        if wanted.image is None:
            assert wanted.file is not None
            return await self._decode(wanted.file, place)
        prepare = partial(self._prepare_tensor, wanted.image, place)
        return await self.context.codecs.run(prepare, held=(place, self.context.upload_share))

    def _prepare_tensor(self, image: Array, place: Share) -> Canvas:
        size = image.shape[0], image.shape[1]
        require_few_pixels(size, self.context.service.settings.max_pixels)
        place.take(size[0] * size[1])
        return self.context.predictor.prepare(image, scaling=self.scaling)

    def _write(self, wanted: InferenceRequest, mask: Array) -> tuple[Answer, int | None]:
        made, json_bytes = make_tensor_answer(wanted, mask, model=MODEL_NAME, version=MODEL_VERSION)
        self.context.answer_share.take(made.held_bytes)
        return made, json_bytes
