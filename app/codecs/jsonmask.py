"""The JSON of a mask, piece by piece: one piece holds the interpreter's lock for a moment only.

Knows nothing of HTTP; `images` and `answers` put the pieces together.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import orjson

from model.engines.base import Array, Size
from model.weights import Metadata

PART_PIXELS = 2**15
"""Of one call of orjson, which does not let go of the interpreter: 2 ms where each is a row."""

COUNTED_PIXELS = 2**16
"""Are counted at once, because `bincount` makes integers of eight bytes of them."""


def parts(size: Size, pixels: int = PART_PIXELS) -> Iterator[tuple[slice, slice]]:
    """Rows and columns that cover a mask in its order: several whole rows, or a part of one."""
    height, width = size
    rows = max(1, pixels // width)
    for top in range(0, height, rows):
        for left in range(0, width, pixels) if rows == 1 else (0,):
            right = min(width, left + pixels) if rows == 1 else width
            yield slice(top, min(height, top + rows)), slice(left, right)


def part_text(part: Array, rows: slice, columns: slice, width: int) -> bytes:
    """What stands for that part between the brackets of `mask`."""
    if columns.start == 0 and columns.stop == width:
        text = _text(part)[1:-1]
    else:
        begin = b"[" if columns.start == 0 else b""
        text = begin + _text(part[0])[1:-1] + (b"]" if columns.stop == width else b"")
    return b"," + text if rows.start or columns.start else text


def _text(array: Array) -> bytes:
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def around(size: Size, counts: Sequence[int], metadata: Metadata) -> tuple[bytes, bytes]:
    """What comes before the first part and after the last."""
    height, width = size
    head = {
        "height": height,
        "width": width,
        "classes": present(counts, metadata.classes),
        "mask": [],
    }
    weights = orjson.dumps({"weights": metadata.digest})
    return orjson.dumps(head)[:-2], b"]," + weights[1:]


def length_bytes(size: Size, counts: Sequence[int]) -> int:
    """Of all parts together: digits, brackets, commas."""
    height, width = size
    digits = sum(len(str(index)) * count for index, count in enumerate(counts))
    return digits + height * (width + 1) + height - 1


def count(mask: Array) -> list[int]:
    """How many pixels each of 256 indices has."""
    counts = np.zeros(256, np.int64)
    for rows, columns in parts((mask.shape[0], mask.shape[1]), COUNTED_PIXELS):
        counts += np.bincount(mask[rows, columns].ravel(), minlength=256)
    return [int(number) for number in counts]


def present(counts: Sequence[int], classes: Sequence[str]) -> list[dict[str, object]]:
    """The classes that a mask has, in index order, with the number of their pixels."""
    return [
        {"index": index, "name": classes[index], "pixels": pixels}
        for index, pixels in enumerate(counts)
        if pixels
    ]
