"""The answer of the Open Inference Protocol, version 2: a mask as a tensor, in JSON or in binary.

Knows nothing of HTTP's messages, or of how a request is read.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from app.codecs import jsonmask
from app.codecs.answers import Answer, ArrayWriter, PackedMask, make_in_pieces
from app.codecs.tensors import MASK, InferenceRequest
from model.engines.base import Array, Size


def make_tensor_answer(
    request: InferenceRequest, mask: Array, *, model: str, version: str
) -> tuple[Answer, int | None]:
    """Return the answer for a mask (H, W), and the length of its JSON if binary data follows."""
    output: dict[str, Any] = {"name": MASK, "datatype": "UINT8", "shape": mask.shape}
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = [output]
    if request.is_binary:
        output["parameters"] = {"binary_data_size": mask.size}
        head = orjson.dumps(document)
        return make_in_pieces(mask, ArrayWriter(mask, head)), len(head)
    output["data"] = []
    begin, end = orjson.dumps(document)[:-4], b"]}]}"
    return make_in_pieces(mask, _NumbersWriter(mask, begin, end)), None


class _NumbersWriter:
    """Writes the numbers of a mask between two texts, as one flat list."""

    def __init__(self, mask: Array, begin: bytes, end: bytes) -> None:
        self._size: Size = (mask.shape[0], mask.shape[1])
        self._begin, self._end = begin, end
        digits = sum(len(str(index)) * many for index, many in enumerate(jsonmask.count(mask)))
        self.size_bytes = len(begin) + digits + mask.size - 1 + len(end)

    def write(self, mask: Array | PackedMask) -> Iterator[bytes]:
        yield self._begin
        for number, part in enumerate(jsonmask.split(self._size)):
            numbers = np.ascontiguousarray(mask[part]).reshape(-1)
            text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
            yield b"," + text if number else text
        yield self._end
