"""COCO's run-length encoding of each class of a mask, as pycocotools' `mask.decode` reads it.

The counts of pixels, column by column, alternate: outside the class, inside it, and so on. From the
fourth one on, a count is written as the difference from the count two places before. Numbers are
written in groups of five bits as printable characters. Knows nothing of JSON or HTTP.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.codecs.jsonmask import split
from model.engines.base import Array

PART_PIXELS = 2**17
"""The pixels of one step, which holds the interpreter's lock for less than a millisecond."""

BITS = 5
MORE = 1 << BITS
FIRST_CHARACTER = ord("0")

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassRuns:
    """The runs of one class in a mask."""

    index: int
    pixels: int
    box: tuple[int, int, int, int]
    """Left, top, width and height, as COCO's `bbox`."""
    counts: str
    """The encoded runs, as in COCO's `segmentation`."""


def encode_runs(mask: Array) -> list[ClassRuns]:
    """Return the runs of each class in a mask (H, W), in index order, without index 0."""
    height, _ = mask.shape
    writers: dict[int, _Writer] = {}
    for values, starts, ends in _list_runs(mask):
        for index in set(np.flatnonzero(np.bincount(values)).tolist()) - {0}:
            own = values == index
            writer = writers.setdefault(index, _Writer(height))
            writer.add(starts[own], ends[own])
    return [writers[index].finish(index, mask.size) for index in sorted(writers)]


def count_runs(mask: Array) -> int:
    """Return the number of runs of equal values down the columns, index 0 included."""
    height, width = mask.shape
    runs = 1 + np.count_nonzero(mask[0, 1:] != mask[-1, :-1])
    for rows, columns in split((height - 1, width), PART_PIXELS):
        part = mask[rows.start : rows.stop + 1, columns]
        runs += np.count_nonzero(part[1:] != part[:-1])
    return int(runs)


def _list_runs(mask: Array) -> Iterator[tuple[Array, Integers, Integers]]:
    """Yield arrays of the runs of equal values down the columns: values, starts and ends."""
    columns = mask.T
    value, start, offset = int(mask[0, 0]), 0, 0
    for part in split((columns.shape[0], columns.shape[1]), PART_PIXELS):
        pixels = np.ascontiguousarray(columns[part]).ravel()
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        if pixels[0] != value:
            changes = np.concatenate(([0], changes))
        if len(changes):
            ends = changes + offset
            values = np.concatenate((np.array([value], np.uint8), pixels[changes[:-1]]))
            yield values, np.concatenate(([start], ends[:-1])), ends
            value, start = int(pixels[changes[-1]]), int(ends[-1])
        offset += len(pixels)
    yield np.array([value], np.uint8), np.array([start]), np.array([offset])


class _Writer:
    """Encodes the runs of one class in the order in which they are found."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._end = 0
        self._pixels = 0
        self._written = 0
        self._before: Integers = np.zeros(2, np.int64)
        """The last two counts."""
        self._texts: list[bytes] = []
        self._sides = [np.inf, np.inf, -1.0, -1.0]
        """The first column and row with a pixel of the class, and the last column and row."""

    def add(self, starts: Integers, ends: Integers) -> None:
        self._pixels += int((ends - starts).sum())
        self._widen(starts, ends - 1)
        gaps = starts - np.concatenate(([self._end], ends[:-1]))
        self._end = int(ends[-1])
        self._write(np.stack((gaps, ends - starts), axis=1).ravel())

    def finish(self, index: int, pixels: int) -> ClassRuns:
        if self._end < pixels:
            self._write(np.array([pixels - self._end]))
        left, top, right, bottom = (int(side) for side in self._sides)
        box = left, top, right - left + 1, bottom - top + 1
        return ClassRuns(index, self._pixels, box, b"".join(self._texts).decode("ascii"))

    def _write(self, counts: Integers) -> None:
        earlier = np.concatenate((self._before, counts))[: len(counts)]
        earlier[: max(0, 3 - self._written)] = 0
        self._texts.append(write_numbers(counts - earlier))
        self._before = np.concatenate((self._before, counts))[-2:]
        self._written += len(counts)

    def _widen(self, first: Integers, last: Integers) -> None:
        left, right = int(first[0]) // self._height, int(last[-1]) // self._height
        top, bottom = int((first % self._height).min()), int((last % self._height).max())
        if (first // self._height != last // self._height).any():  # a run spans two columns
            top, bottom = 0, self._height - 1
        sides = self._sides
        self._sides = [
            min(sides[0], left), min(sides[1], top), max(sides[2], right), max(sides[3], bottom)
        ]  # fmt: skip


def write_numbers(numbers: Integers) -> bytes:
    """Return signed numbers in groups of five bits, lowest first; bit 6 says that more follow."""
    rest = numbers.copy()
    groups = []
    has_more = np.ones(len(rest), np.bool_)
    used = []
    while has_more.any():
        used.append(has_more)
        bits = rest & (MORE - 1)
        rest >>= BITS
        has_more = has_more & (rest != np.where(bits & (MORE >> 1), -1, 0))
        groups.append((bits + np.where(has_more, MORE, 0) + FIRST_CHARACTER).astype(np.uint8))
    return np.stack(groups, axis=1)[np.stack(used, axis=1)].tobytes() if groups else b""
