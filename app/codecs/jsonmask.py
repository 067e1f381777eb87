"""Writes the JSON of a mask in parts, because orjson holds the interpreter's lock during a call.

Knows nothing of HTTP; `encode` and `answers` join the parts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import orjson

from model.engines.base import Array, Size
from model.weights import Metadata

PART_PIXELS = 2**15
"""The pixels of one call of orjson, which takes at most 2 ms, even if each pixel is a row."""

COUNTED_PIXELS = 2**16
"""The pixels that are counted at a time, because `bincount` converts them to 8-byte integers."""


def split(size: Size, pixels: int = PART_PIXELS) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of each part: several whole rows, or a part of one."""
    height, width = size
    rows = max(1, pixels // width)
    for top in range(0, height, rows):
        for left in range(0, width, pixels) if rows == 1 else (0,):
            right = min(width, left + pixels) if rows == 1 else width
            yield slice(top, min(height, top + rows)), slice(left, right)


def format_part(part: Array, rows: slice, columns: slice, width: int) -> bytes:
    """Return the JSON of one part, as it appears between the brackets of `mask`."""
    if columns.start == 0 and columns.stop == width:
        text = _dump(part)[1:-1]
    else:
        begin = b"[" if columns.start == 0 else b""
        text = begin + _dump(part[0])[1:-1] + (b"]" if columns.stop == width else b"")
    return b"," + text if rows.start or columns.start else text


def _dump(array: Array) -> bytes:
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def make_ends(size: Size, counts: Sequence[int], metadata: Metadata) -> tuple[bytes, bytes]:
    """Return the JSON before the first part and the JSON after the last part."""
    height, width = size
    head = {
        "height": height,
        "width": width,
        "classes": list_present(counts, metadata.classes),
        "mask": [],
    }
    weights = orjson.dumps({"weights": metadata.digest})
    return orjson.dumps(head)[:-2], b"]," + weights[1:]


def count_bytes(size: Size, counts: Sequence[int]) -> int:
    """Return the length of all parts together, which are digits, brackets and commas."""
    height, width = size
    digits = sum(len(str(index)) * count for index, count in enumerate(counts))
    return digits + height * (width + 1) + height - 1


def count(mask: Array) -> list[int]:
    """Return the number of pixels of each of 256 indices."""
    counts = np.zeros(256, np.int64)
    for rows, columns in split((mask.shape[0], mask.shape[1]), COUNTED_PIXELS):
        counts += np.bincount(mask[rows, columns].ravel(), minlength=256)
    return [int(number) for number in counts]


def list_present(counts: Sequence[int], classes: Sequence[str]) -> list[dict[str, object]]:
    """Return the classes with pixels, in index order, with their numbers of pixels."""
    return [
        {"index": index, "name": classes[index], "pixels": pixels}
        for index, pixels in enumerate(counts)
        if pixels
    ]
