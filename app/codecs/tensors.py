"""The tensors of the Open Inference Protocol, version 2: as JSON, and in its binary extension.

Reads a request for one image. Knows nothing of HTTP, or of how images are decoded.
"""

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from app.errors import BodyTooLarge, InvalidTensor
from model.engines.base import Array

IMAGE, FILE, MASK = "image", "file", "mask"
"""The names of the tensors."""

MAX_DIMENSIONS = 3
"""The limit of a shape's length; the product of a million sides would take minutes to compute."""

MAX_JSON_BYTES = 2**22
"""The limit of the JSON in a request, because it can take 30 times its size as Python objects."""

PART_NUMBERS = 2**15
"""The numbers that are converted at a time, because this holds the interpreter's lock."""

REMEDY = "See /v2/models/fcn_resnet18 for the tensors."


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A request for the mask of an image tensor or of an image file."""

    id: str | None
    image: Array | None
    """The RGB pixels (H, W, 3) of the input `image`, if the request has it."""
    file: bytes | None
    """The image file of the input `file`, if the request has it."""
    is_binary: bool
    """Whether the request asks for the mask in binary."""


def read_request(body: bytes, json_bytes: int | None) -> InferenceRequest:
    """Read a request. Its JSON has `json_bytes`, followed by binary data; None means JSON only.

    Raises InvalidTensor, and BodyTooLarge if the JSON is too large.
    """
    head, data = body, b""
    if json_bytes is not None:
        if json_bytes > len(body):
            raise _make_invalid("Inference-Header-Content-Length exceeds the body")
        head, data = body[:json_bytes], body[json_bytes:]
    if len(head) > MAX_JSON_BYTES:
        raise BodyTooLarge(
            f"The request's JSON has {len(head)} bytes, the limit is {MAX_JSON_BYTES}.",
            remedy="Send the tensor in binary, or the encoded file.",
        )
    try:
        document = orjson.loads(head)
    except ValueError as error:
        raise _make_invalid(f"the JSON cannot be read ({error})") from error
    _require(isinstance(document, dict), "the JSON is not an object")
    inputs = document.get("inputs")
    _require(isinstance(inputs, list) and len(inputs) == 1, "there must be one input")
    _require(isinstance(inputs[0], dict), "an input is an object")
    image, file = _read_input(inputs[0], data)
    identity = document.get("id")
    _require(identity is None or isinstance(identity, str), "the id is not a string")
    return InferenceRequest(identity, image, file, _find_output(document))


def _find_parameters(owner: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a request or a tensor; some clients send null for none."""
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    _require(isinstance(parameters, dict), "the parameters are not an object")
    assert isinstance(parameters, dict)
    return parameters


def _read_input(tensor: Mapping[str, Any], data: bytes) -> tuple[Array | None, bytes | None]:
    """Return the pixels of an image tensor, or the bytes of a file."""
    name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    _require(isinstance(name, str) and isinstance(datatype, str), "name and datatype are strings")
    _require(
        isinstance(shape, list)
        and len(shape) <= MAX_DIMENSIONS
        and all(type(side) is int and side > 0 for side in shape),
        f"a shape is a list of at most {MAX_DIMENSIONS} positive integers",
    )
    assert isinstance(shape, list)
    size = _find_parameters(tensor).get("binary_data_size")
    _require((size is None) == ("data" in tensor), "an input has either data or binary_data_size")
    data_bytes = 0 if size is None else size
    _require(
        type(data_bytes) is int and data_bytes == len(data),
        f"{len(data)} bytes follow the JSON, but binary_data_size is not {len(data)}",
    )
    if (name, datatype) == (IMAGE, "UINT8"):
        _require(len(shape) == 3 and shape[2] == 3, f"the shape of {IMAGE!r} is [height, width, 3]")
        values = (
            np.frombuffer(data, np.uint8) if "data" not in tensor
            else _read_numbers(tensor["data"], shape)
        )  # fmt: skip
        _require(
            len(values) == math.prod(shape), f"the shape {shape} does not have {len(values)} values"
        )
        return values.reshape(shape), None
    if (name, datatype) == (FILE, "BYTES"):
        _require(all(side == 1 for side in shape), f"{FILE!r} has one element")
        return None, _read_text(tensor["data"]) if "data" in tensor else _read_element(data)
    raise _make_invalid(f"the input is {IMAGE!r} of UINT8 or {FILE!r} of BYTES, not {name!r:.50}")


def _read_numbers(values: object, shape: Sequence[int]) -> Array:
    """Return the numbers of a flat list, or of lists that are nested as the shape says."""
    _require(isinstance(values, list), "the data is not a list")
    assert isinstance(values, list)
    if values and isinstance(values[0], list):
        rows = [values]
        for side in shape:
            _require(
                all(isinstance(row, list) and len(row) == side for row in rows),
                f"the nested lists do not have the shape {shape}",
            )
            rows = [value for row in rows for value in row]
        values = rows
    numbers = np.empty(len(values), np.uint8)
    for first in range(0, len(values), PART_NUMBERS):
        part = values[first : first + PART_NUMBERS]
        _require(
            all(type(value) is int and 0 <= value <= 255 for value in part),
            "the data of UINT8 has integers from 0 to 255",
        )
        numbers[first : first + len(part)] = part
    return numbers


def _read_text(values: object) -> bytes:
    is_text = isinstance(values, list) and len(values) == 1 and isinstance(values[0], str)
    _require(is_text, "the data of BYTES is a list of one string in base64")
    assert isinstance(values, list)
    try:
        return base64.b64decode(values[0], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _make_invalid(f"the data of BYTES is not in base64 ({error})") from error


def _read_element(data: bytes) -> bytes:
    """Return the one element of a tensor of BYTES, which begins with its length."""
    _require(len(data) >= 4, "an element of BYTES begins with its length")
    (length,) = struct.unpack_from("<I", data)
    _require(
        length == len(data) - 4, f"an element of BYTES has {len(data) - 4} bytes, not {length}"
    )
    return data[4:]


def _find_output(document: Mapping[str, Any]) -> bool:
    """Return whether the request asks for the mask in binary."""
    is_binary = bool(_find_parameters(document).get("binary_data_output", False))
    outputs = [] if document.get("outputs") is None else document["outputs"]
    _require(isinstance(outputs, list) and len(outputs) <= 1, "there is one output")
    for output in outputs:
        _require(isinstance(output, dict) and output.get("name") == MASK, f"the output is {MASK!r}")
        own = _find_parameters(output)
        _require("classification" not in own, "classification is not supported")
        is_binary = bool(own.get("binary_data", is_binary))
    return is_binary


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise _make_invalid(otherwise)


def _make_invalid(what: str) -> InvalidTensor:
    return InvalidTensor(f"The inference request is invalid: {what}.", remedy=REMEDY)
