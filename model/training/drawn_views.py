"""Views as rows of numbers, without pixels, so that a device can make many of them at once.

Loader processes draw them as `TrainingSamples` does. Knows nothing of devices or of arithmetic.
"""

from dataclasses import astuple, dataclass, fields
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.engines.base import Size
from model.training.loader import TrainingSamples
from model.training.sampler import Draw
from model.training.soft_labels import CELL
from model.training.transforms import BRIGHTNESS, Recolouring, View, VisibleSpan

STEPS = 3
"""The number of steps in the longest recolouring."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a view: the image's, what is visible, and the pixels that scaling needs."""

    source: int
    offset: int
    length: int
    start: float
    stop: float
    first: int
    number: int
    """The first of these pixels, and how many they are."""

    @classmethod
    def of(cls, span: VisibleSpan, source: int) -> "Side":
        reach = max(1.0, (span.stop - span.start) / span.length)
        first = max(0, floor(span.start - reach))
        last = min(source, ceil(span.stop + reach))
        return cls(source, span.offset, span.length, span.start, span.stop, first, last - first)


SIDE = len(fields(Side))
ROW = 3 + 2 * SIDE + 2 * STEPS
"""Where the image is and whether it is flipped, both sides, and the recolouring."""

EDGES = (3, 3 + SIDE, 3 + 2 * SIDE, 3 + 2 * SIDE + STEPS)


class Layout:
    """Where each image is, if those of a set lie one after the other: pixels and cells."""

    def __init__(self, sizes: list[Size]) -> None:
        pixels = [height * width for height, width in sizes]
        cells = [-(-height // CELL) * -(-width // CELL) for height, width in sizes]
        self.sizes = sizes
        self.pixel_starts: list[int] = np.cumsum([0, *pixels]).tolist()
        self.cell_starts: list[int] = np.cumsum([0, *cells]).tolist()

    @property
    def pixels(self) -> int:
        return self.pixel_starts[-1]

    @property
    def cells(self) -> int:
        return self.cell_starts[-1]


class DrawnViews:
    """A row for each sample, for a DataLoader whose sampler yields `Draw`s."""

    def __init__(self, samples: TrainingSamples, layout: Layout) -> None:
        self.samples = samples
        self.layout = layout

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> NDArray[np.float64]:
        view, recolouring = self.samples.draw_view(draw)
        return describe_view(view, recolouring, self.layout, draw.index)


def describe_view(
    view: View, recolouring: Recolouring, layout: Layout, index: int
) -> NDArray[np.float64]:
    """Return a row, (ROW,): exact, because float64 holds integers up to 2 ** 53."""
    height, width = layout.sizes[index]
    steps = (*recolouring, *((BRIGHTNESS, 1.0),) * (STEPS - len(recolouring)))
    kinds, amounts = zip(*steps, strict=True)
    places = (layout.pixel_starts[index], layout.cell_starts[index], view.is_flipped)
    sides = (*astuple(Side.of(view.rows, height)), *astuple(Side.of(view.columns, width)))
    return np.array([*places, *sides, *kinds, *amounts], np.float64)


class SideTable:
    """The `Side`s of a batch: each attribute is (N, 1), on the device of the table."""

    def __init__(self, columns: Tensor) -> None:
        self.source, self.offset, self.length, self.start, self.stop, self.first, self.number = (
            columns.chunk(SIDE, dim=1)
        )


class ViewTable:
    """The rows of a batch, (N, ROW), by the names of their columns."""

    def __init__(self, rows: Tensor) -> None:
        starts, by_row, by_column, self.kinds, self.amounts = rows.tensor_split(EDGES, dim=1)
        self.pixel_start, self.cell_start, self.is_flipped = starts.chunk(3, dim=1)
        self.sides = (SideTable(by_row), SideTable(by_column))
