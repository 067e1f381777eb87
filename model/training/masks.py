"""Read masks from files: palette or grey values of the classes, or their colours, to class indices.

Knows nothing of images.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.class_list import MAX_VALUE, ClassList, format_colour
from model.classes import IGNORE_INDEX
from model.engines.base import Array
from model.training.defects import BrokenSample, Defect
from model.training.photos import open_upright

UNKNOWN = -1
PACK = np.array([65536, 256, 1])

KNOWN_MODES = (
    "Save it as a PNG of one channel, whose values are the class indices, or painted in the "
    "classes' colours"
)
NAME_VALUES = (
    "Save the masks anew as PNG with the values of the classes, or name the classes, and the value "
    "that each has in a mask, with --classes FILE"
)
NAME_COLOURS = (
    "Paint the masks anew in the classes' colours, without smoothing, as PNG; or name the classes "
    "and their colours, and the colour of void, with --classes FILE"
)


def read_mask(path: Path, classes: ClassList) -> Array:
    """Read class indices (H, W) uint8, upright, 255 where void. Raises BrokenSample."""
    with open_upright(path) as image:
        if image.mode == "1":
            values, lookup = np.asarray(image).astype(np.uint8), np.arange(len(classes))
            return _look_up(values, lookup, path=path, image=image, classes=classes)
        if image.mode in ("P", "L", "LA", "I") or image.mode.startswith("I;16"):
            values = np.asarray(image.getchannel("L") if image.mode == "LA" else image)
            lookup = _build_lookup(classes)
            return _look_up(values, lookup, path=path, image=image, classes=classes)
        if image.mode in ("RGB", "RGBA"):
            return _read_painted(image, path, classes)
        raise BrokenSample(Defect(f"{path} is no mask: its mode is {image.mode}", KNOWN_MODES))


def find_indices(target: Array) -> list[int]:
    """Return a target's sorted values, many times faster than `np.unique`, which sorts pixels."""
    counts = np.bincount(target.ravel(), minlength=256)
    return [int(value) for value in counts.nonzero()[0]]


def _build_lookup(classes: ClassList) -> NDArray[np.int64]:
    """Return the class index of each pixel value, or void, or UNKNOWN."""
    lookup = np.full(max(IGNORE_INDEX, *classes.values) + 1, UNKNOWN)
    lookup[IGNORE_INDEX] = IGNORE_INDEX
    lookup[list(classes.values)] = np.arange(len(classes))
    return lookup


def _look_up(
    values: NDArray[np.generic],
    lookup: NDArray[np.int64],
    *,
    path: Path,
    image: Image.Image,
    classes: ClassList,
) -> Array:
    """Turn values into class indices. Values of 8 bits, the usual case, are copied only once."""
    is_wide = values.dtype != np.uint8
    integers = np.clip(values.astype(np.int32), 0, MAX_VALUE) if is_wide else values
    found = np.bincount(integers.ravel(), minlength=len(lookup)).nonzero()[0]
    unknown = [int(v) for v in found if v >= len(lookup) or lookup[v] == UNKNOWN]
    if unknown:
        place = _find(integers == unknown[0])
        known = _format_values(classes)
        raise BrokenSample(
            Defect(
                f"{path} has the class index {unknown[0]} {place}{_format_more(len(unknown))}"
                f"{_format_jpeg(image)}; {known}",
                NAME_VALUES,
            )
        )
    return lookup.astype(np.uint8)[integers]


def _read_painted(image: Image.Image, path: Path, classes: ClassList) -> Array:
    packed = np.asarray(image.convert("RGB")).astype(np.int32) @ PACK
    colours = np.array([*classes.palette, classes.void]) @ PACK
    indices = np.array([*range(len(classes)), IGNORE_INDEX], np.uint8)
    order = np.argsort(colours, kind="stable")  # a class precedes void of its colour
    place = np.searchsorted(colours[order], packed).clip(max=len(order) - 1)
    is_unknown = colours[order][place] != packed
    if is_unknown.any():
        unknown = np.unique(packed[is_unknown])
        first = int(packed[is_unknown][0])
        colour = format_colour((first >> 16, first >> 8 & 255, first & 255))
        where = _find(is_unknown)
        raise BrokenSample(
            Defect(
                f"{path} has the colour {colour} {where}{_format_more(len(unknown))}"
                f"{_format_jpeg(image)}, which no class has",
                NAME_COLOURS,
            )
        )
    target: Array = indices[order][place]
    return target


def _find(where: NDArray[np.bool_]) -> str:
    row, column = np.argwhere(where)[0].tolist()
    return f"at column {column}, row {row}"


def _format_more(number: int) -> str:
    return f" (and {number - 1} more that are unknown)" if number > 1 else ""


def _format_jpeg(image: Image.Image) -> str:
    return " (a JPEG, which changes colours)" if image.format == "JPEG" else ""


def _format_values(classes: ClassList) -> str:
    if classes.has_plain_values:
        return f"there are {len(classes)} classes, 0 to {len(classes) - 1}, and 255 for void"
    return f"its {len(classes)} classes have the values {', '.join(map(str, classes.values))}"
