"""Random views of an image and its mask: the same window of both.

Images are (H, W, 3) uint8 RGB, targets (H, W) uint8 class indices. Everything random comes
from the generator that is passed. Knows nothing of files or of networks.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from model.classes import IGNORE_INDEX
from model.engines.base import Array, Size

COLOUR_JITTER = 0.3
"""Brightness, contrast and saturation are each multiplied by 1 +- this."""
GREYSCALE_SHARE = 0.05


def void_to_background(target: Array) -> Array:
    """Read a mask as the notebook does: the void border counts as background, index 0."""
    return np.where(target == IGNORE_INDEX, np.uint8(0), target)


def draw_crop(source: Size, *, size: Size, rng: np.random.Generator) -> "View":
    """Draw a window without scaling. Each side of the source must hold the crop."""
    sides = zip(source, size, strict=True)
    starts = [int(rng.integers(0, whole - part + 1)) for whole, part in sides]
    rows, columns = (VisibleSpan(0, n, s, s + n) for n, s in zip(size, starts, strict=True))
    return View(size, rows, columns)


def draw_view(
    source: Size, *, size: Size, scale: tuple[float, float], rng: np.random.Generator
) -> "View":
    """Draw a window of `size` on a source: scaled, cropped or padded, flipped.

    The scaled longer side is `scale` times the crop's, drawn log-uniformly. A scaled image that is
    smaller than the crop is placed at random.
    """
    longer_side = max(size) * math.exp(rng.uniform(math.log(scale[0]), math.log(scale[1])))
    factor = longer_side / max(source)
    rows = _draw_span(size[0], source[0], factor, rng)
    columns = _draw_span(size[1], source[1], factor, rng)
    return View(size, rows, columns, is_flipped=rng.random() < 0.5)


class View:
    """A window on an image and its maps. Only what is visible is resampled."""

    def __init__(
        self, size: Size, rows: "VisibleSpan", columns: "VisibleSpan", *, is_flipped: bool = False
    ) -> None:
        """`size` is the (height, width) of the crop."""
        self.size = size
        self.rows = rows
        self.columns = columns
        self.is_flipped = is_flipped

    def of_image(
        self, image: Array, *, fill: tuple[int, int, int], recolouring: "Recolouring"
    ) -> Array:
        """Return the window of an image (H, W, 3), recoloured; `fill` where there is no image."""
        view = np.empty((*self.size, 3), np.uint8)
        view[:] = fill
        window = recolour(self._resize(image, Image.Resampling.BILINEAR), recolouring)
        view[self._place] = np.asarray(window)
        return view

    def cut(self, source: Array) -> Array:
        """Return the window of an image or target, for a view that `draw_crop` drew."""
        top, left = int(self.rows.start), int(self.columns.start)
        return source[top : top + self.size[0], left : left + self.size[1]]

    def of_target(self, target: Array) -> Array:
        """Return the window of a target (H, W); void where there is no image."""
        view = np.full(self.size, IGNORE_INDEX, np.uint8)
        view[self._place] = np.asarray(self._resize(target, Image.Resampling.NEAREST))
        return view

    def of_cells(self, cells: Array, *, cell: int) -> NDArray[np.float32]:
        """Return the window of a map (h, w, C), whose cells have `cell` x `cell` pixels.

        It has an entry for each such cell of the crop, (H / cell, W / cell, C), interpolated
        bilinearly; zero where there is no image.
        """
        rows = self.rows.interpolation(self.size[0] // cell, cells.shape[0], cell)
        columns = self.columns.interpolation(
            self.size[1] // cell, cells.shape[1], cell, is_flipped=self.is_flipped
        )
        # PyTorch has one thread in a loader process. NumPy's BLAS would use all cores for this
        # small product, and take up to a hundred times as long if they are busy.
        maps = torch.from_numpy(cells.astype(np.float32))
        narrow = torch.tensordot(torch.from_numpy(columns), maps, dims=([1], [1]))  # (W, h, C)
        wide = torch.tensordot(torch.from_numpy(rows), narrow, dims=([1], [1]))
        view: NDArray[np.float32] = wide.contiguous().numpy()
        return view

    @property
    def _place(self) -> tuple[slice, slice]:
        return self.rows.place, self.columns.place

    def _resize(self, source: Array, resampling: Image.Resampling) -> Image.Image:
        rows, columns = self.rows, self.columns
        window = Image.fromarray(source).resize(
            (columns.length, rows.length),
            resampling,
            box=(columns.start, rows.start, columns.stop, rows.stop),
            reducing_gap=None,
        )
        return window.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.is_flipped else window


@dataclass(frozen=True, slots=True)
class VisibleSpan:
    """Along one side: the visible part of the source, and its place in the crop."""

    offset: int
    length: int
    """First pixel of the crop that shows the source, and how many do."""
    start: float
    stop: float
    """The edges of the visible part, in pixels of the source."""

    @property
    def place(self) -> slice:
        return slice(self.offset, self.offset + self.length)

    def interpolation(
        self, crop_cells: int, source_cells: int, cell: int, *, is_flipped: bool = False
    ) -> NDArray[np.float32]:
        """Compute each source cell's share in each cell of the crop, (crop_cells, source_cells).

        A row is zero where the middle of the crop's cell shows nothing of the source.
        """
        middle = (np.arange(crop_cells) + 0.5) * cell - self.offset
        inside = (middle >= 0) & (middle < self.length)
        if is_flipped:
            middle = self.length - middle
        source = self.start + middle * (self.stop - self.start) / self.length
        position = np.clip(source / cell - 0.5, 0, source_cells - 1)
        distance = np.abs(position[:, None] - np.arange(source_cells))
        shares: NDArray[np.float32] = (np.maximum(1 - distance, 0) * inside[:, None]).astype(
            np.float32
        )
        return shares


def _draw_span(crop: int, source: int, factor: float, rng: np.random.Generator) -> VisibleSpan:
    scaled = max(1, round(source * factor))
    position = int(rng.integers(min(0, crop - scaled), max(0, crop - scaled) + 1))
    length = min(crop, scaled)
    first = max(0, -position)
    start, stop = first * source / scaled, (first + length) * source / scaled
    return VisibleSpan(max(0, position), length, start, stop)


BRIGHTNESS, CONTRAST, SATURATION = range(3)
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

Recolouring = tuple[tuple[int, float], ...]
"""What is multiplied by how much, one after the other."""


def draw_recolouring(rng: np.random.Generator) -> Recolouring:
    if rng.random() < GREYSCALE_SHARE:
        return ((SATURATION, 0.0),)
    order = [int(kind) for kind in rng.permutation(len(_ENHANCERS))]
    return tuple((kind, rng.uniform(1 - COLOUR_JITTER, 1 + COLOUR_JITTER)) for kind in order)


def recolour(picture: Image.Image, recolouring: Recolouring) -> Image.Image:
    for kind, amount in recolouring:
        picture = _ENHANCERS[kind](picture).enhance(amount)
    return picture
