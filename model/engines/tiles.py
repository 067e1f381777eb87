"""The geometry of the network's last step, which every head shares.

A transposed convolution of kernel 64, stride 32 and padding 16 computes each pixel from the four
coarse cells around it. So the picture consists of tiles of 32 x 32 pixels, whose pixels have the
same cells, and the logits of all tiles are one product: (tiles, 4 C) x (4 C, C * 1024). The first
tile begins half a tile above and left of the picture, and the coarse logits have a frame of zeros.
Tiles are computed in blocks, so the full logits, 0.94 GiB for a 12-megapixel photo, never exist. A
tile's side is the network's stride: with skips, 16 or 8 pixels.

Knows nothing of how the product is computed.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

PIXELS_PER_BLOCK = 2**15
"""The pixels whose logits a head on the CPU holds at once, so that they stay in the cache."""

# The columns of a scaled mask that are computed in one sweep. Wider masks take several sweeps.
COLUMNS_AT_ONCE = 16384

# The pixels of a scaled mask that are blended at once: in a narrow mask, these are several rows.
PIXELS_AT_ONCE = 2**16


def build_tile_matrix(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn the kernel (C, C, 2 side, 2 side) into the product's right side, (4 C, C * side * side).

    Rows: upper left, upper right, lower left and lower right cell, each with its C channels.
    """
    classes, side = kernel.shape[0], kernel.shape[-1] // 2
    assert kernel.shape == (classes, classes, 2 * side, 2 * side), kernel.shape
    # Pixel dy of a tile lies at kernel row side + dy of the upper cell and dy of the lower one.
    halves = kernel.reshape(classes, classes, 2, side, 2, side)[:, :, ::-1, :, ::-1]
    corners_first = halves.transpose(2, 4, 0, 1, 3, 5)
    return np.ascontiguousarray(corners_first.reshape(4 * classes, classes * side * side))


def is_bilinear(kernel: NDArray[np.float32]) -> bool:
    """Return whether the kernel (C, C, n, n) only interpolates each class bilinearly."""
    factor = kernel.shape[-1] // 2
    ramp = 1 - np.abs(np.arange(2 * factor) - (factor - 0.5)) / factor
    window = np.outer(ramp, ramp).astype(np.float32)
    classes = np.eye(kernel.shape[0], dtype=np.float32)
    return np.array_equal(kernel, classes[:, :, None, None] * window)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each output pixel along one side: its two source pixels, and the share of the second.

    Half-pixel centres, edge values repeated, as in `F.interpolate(mode="bilinear",
    align_corners=False)`.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: NDArray[np.float32]

    @classmethod
    def between(cls, source: int, output: int, *, start: int = 0, stop: int | None = None) -> Self:
        """Interpolate from `source` pixels to `output` pixels, of which start ... stop - 1."""
        pixels = np.arange(start, output if stop is None else stop)
        positions = np.maximum((pixels + 0.5) * source / output - 0.5, 0)
        first = np.minimum(positions.astype(np.int64), source - 1)
        second = np.minimum(first + 1, source - 1)
        return cls(first, second, (positions - first).astype(np.float32))

    def cut(self, start: int, stop: int) -> "Neighbours":
        window = slice(start, stop)
        return Neighbours(self.first[window], self.second[window], self.share[window])

    def count_from(self, source: int) -> "Neighbours":
        """Return the same, with `source` as the first source pixel."""
        return Neighbours(self.first - source, self.second - source, self.share)

    def iterate_runs(self, most: int) -> Iterator[slice]:
        """Yield the runs of output pixels that have the same source pixels, `most` at a time."""
        ends = np.flatnonzero(np.diff(self.first)) + 1
        for start, stop in pairwise([0, *ends.tolist(), len(self.first)]):
            for part in range(start, stop, most):
                yield slice(part, min(part + most, stop))

    @property
    def mean_run(self) -> float:
        """The mean number of output pixels that have the same source pixels."""
        return len(self.first) / (1 + int(self.first[-1] - self.first[0]))


def count_between(source: int, output: int, *, known: int) -> int:
    """Count the output pixels that need only the first `known` of the source pixels."""

    def find_second(pixel: int) -> int:
        position = max((pixel + 0.5) * source / output - 0.5, 0)
        return min(int(position) + 1, source - 1)

    return bisect_left(range(output), known, key=find_second)
