"""The work of one request of the Open Inference Protocol: tensors in, the mask as a tensor out.

Knows nothing of the request's headers; the handler has read them.
"""

from dataclasses import dataclass
from functools import partial

from app.codecs.answers import Answer
from app.codecs.costs import require_few_pixels
from app.codecs.tensors import InferenceRequest, read_request, write_response
from app.http.paths import MODEL_NAME, MODEL_VERSION
from app.routes.segmentation import SegmentationTask
from app.scheduling.budget import Share
from model.engines.base import Array
from model.predictor import Canvas


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceTask(SegmentationTask):
    """One admitted request on its way to its answer, with the weights that it began with."""

    json_bytes: int | None
    """The length of the JSON, behind which binary data follows; None if the body is all JSON."""

    async def infer(self, data: bytes) -> tuple[Answer, int | None]:
        """Return the answer, and the length of its JSON if binary data follows.

        Raises the errors of each stage, Overloaded at `due`.
        """
        codecs = self.service.codecs
        async with self.service.admission.admit(self.due) as place:
            self.stages.enter("decode")
            wanted = await codecs.run(
                read_request, data, self.json_bytes, held=(place, self.upload)
            )
            canvas = await self._prepare_input(wanted, place)
            mask = await self.batcher.submit(
                self.predictor.predict, canvas, self.stages, held=place
            )
            self.stages.enter("encode")
            return await codecs.run(self._write, wanted, mask, held=(place, self.sent))

    async def _prepare_input(self, wanted: InferenceRequest, place: Share) -> Canvas:
        if wanted.image is None:
            assert wanted.file is not None
            return await self._decode(wanted.file, place)
        prepare = partial(self._prepare_tensor, wanted.image, place)
        return await self.service.codecs.run(prepare, held=(place, self.upload))

    def _prepare_tensor(self, image: Array, place: Share) -> Canvas:
        size = image.shape[0], image.shape[1]
        require_few_pixels(size, self.service.settings.max_pixels)
        place.take(size[0] * size[1])
        return self.predictor.prepare(image, max_side=self.max_side)

    def _write(self, wanted: InferenceRequest, mask: Array) -> tuple[Answer, int | None]:
        body, json_bytes = write_response(wanted, mask, model=MODEL_NAME, version=MODEL_VERSION)
        self.sent.take(len(body))
        return Answer(len(body), len(body), whole=body), json_bytes
