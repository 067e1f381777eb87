"""How large an answer can be, known before it is encoded, so that it is counted before it is held.

Knows nothing of HTTP, or of what counts.
"""

import math

import orjson

from app.codecs.polygons import MAX_CORNERS
from app.codecs.runs import count_runs
from app.formats import JPEG, AnswerFormat, AnswerOptions
from model.engines.base import Array, Size
from model.weights import Metadata

HEAD_BYTES = 1024
"""More than the chunks of a PNG, or the members around the classes in JSON, take."""

CLASS_BYTES = 256
"""More than the JSON of one class takes besides its name and its outlines: keys and numbers."""

JPEG_BYTES_PER_PIXEL = 3
"""Saturated noise, the costliest of what was tried, takes 2.4 at the overlay's quality."""

JPEG_HEAD_BYTES = 2048

BLOCK = 8
"""A JPEG has whole blocks of so many pixels in each direction."""


def bound_answer(mask: Array, options: AnswerOptions, metadata: Metadata) -> int:
    """Return the largest number of bytes that the answer for a mask (H, W) can have.

    It is 0 for formats whose answers are bounded by the mask's own size, or held compressed: those
    are counted when they are encoded.
    """
    size = mask.shape[0], mask.shape[1]
    match options.format:
        case AnswerFormat.OVERLAY:
            return bound_overlay(size, is_jpeg=options.media_type == JPEG)
        case AnswerFormat.RLE:
            return bound_rle(size, count_runs(mask), metadata)
        case AnswerFormat.POLYGONS:
            return bound_polygons(size, metadata)
    return 0


def bound_overlay(size: Size, *, is_jpeg: bool) -> int:
    height, width = size
    if is_jpeg:
        pixels = math.ceil(height / BLOCK) * math.ceil(width / BLOCK) * BLOCK**2
        return JPEG_BYTES_PER_PIXEL * pixels + JPEG_HEAD_BYTES
    rows_bytes = height * (1 + 3 * width)
    return rows_bytes + rows_bytes // 256 + HEAD_BYTES  # what does not compress is stored in blocks


def bound_rle(size: Size, runs: int, metadata: Metadata) -> int:
    """Return the bound for a mask with so many runs of equal values down its columns.

    A class writes two numbers for each of its runs and one for the rest. Each is the difference of
    two counts, and all counts of a class together are the mask's pixels; so its differences add up
    to twice that at most. A number d takes at most 1 + log32(2 |d| + 1) characters, which is
    largest in sum if all differences, of all classes, are equal.
    """
    height, width = size
    classes = len(metadata.classes)
    numbers = 2 * runs + classes
    differences = 2 * height * width * classes
    characters = numbers * (1 + math.log(1 + 2 * differences / numbers, 32))
    return math.ceil(characters) + _bound_frame(metadata)


def bound_polygons(size: Size, metadata: Metadata) -> int:
    """Return the bound for any mask that is not too costly.

    Four pixels meet at a vertex, each may have a corner there, and a ring has at least four.
    """
    height, width = size
    corners = min(MAX_CORNERS, 4 * (height + 1) * (width + 1))
    corner_bytes = len(f"[{width},{height}],")
    ring_bytes = corner_bytes + len("[[]],,")  # the first corner again, and a polygon around it
    return corners * corner_bytes + corners // 4 * ring_bytes + _bound_frame(metadata)


def _bound_frame(metadata: Metadata) -> int:
    """Return a bound of what the JSON has besides outlines."""
    names = sum(len(orjson.dumps(name)) for name in metadata.classes)
    return HEAD_BYTES + CLASS_BYTES * len(metadata.classes) + names
