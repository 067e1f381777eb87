"""Turns coarse logits into a mask or its confidence with numpy, at any output size (see `tiles`).

For engines without torch. Knows nothing of the backbone.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeVar

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from model.engines import tiles
from model.engines.base import Array, Region
from model.engines.folding import Floats, FoldedNetwork
from model.engines.interpolation import iterate_rows, stretch_columns
from model.engines.sweep import Sweep
from model.engines.tiles import Neighbours

Reduce = Callable[[Floats], Array]
"""Logits (C, ...) to one byte for each pixel."""

Scalar = TypeVar("Scalar", np.float32, np.uint8)


@cache
def _use_one_blas_thread() -> None:
    """Limit BLAS to one thread: products are small, and the backbone's threads need the cores."""
    threadpoolctl.threadpool_limits(1, user_api="blas")


class NumpyHead:
    """`transpose_conv` of a network, and argmax or softmax."""

    def __init__(self, network: FoldedNetwork) -> None:
        self._classes, self._side = len(network.upsampling_bias), network.stride
        self._bias = np.repeat(network.upsampling_bias, self._side * self._side)
        self._matrix = tiles.build_tile_matrix(network.upsampling_kernel)

    def __call__(self, coarse: Floats, region: Region) -> Array:
        """Turn the coarse logits (C, h, w) of a canvas into its mask, of shape `region.output`."""
        return self._reduce(coarse, region, argmax)

    def measure_confidence(self, coarse: Floats, region: Region) -> Array:
        """Turn coarse logits (C, h, w) into the confidence, uint8 of shape `region.output`."""
        return self._reduce(coarse, region, measure_softmax)

    def _reduce(self, coarse: Floats, region: Region, reduce: Reduce) -> Array:
        _use_one_blas_thread()
        height, width = region.output
        half = self._side // 2
        if region.content == region.output:
            labels = [
                _join_tiles(reduce(np.moveaxis(scores, 2, 0)))
                for scores in self._iterate_blocks(coarse)
            ]
            return np.concatenate(labels)[half : half + height, half : half + width]
        return self._reduce_scaled(coarse, region, reduce)

    def _reduce_scaled(self, coarse: Floats, region: Region, reduce: Reduce) -> Array:
        """Sweep down over the canvas; write each output row once both of its source rows exist."""
        content_height, content_width = region.content
        half = self._side // 2
        mask = np.empty(region.output, np.uint8)
        logits = np.empty((self._classes, 0, content_width), np.float32)
        sweep = Sweep(content_height, region.output[0], first_row=-half)
        for scores in self._iterate_blocks(coarse):
            joined = _join_tiles(np.moveaxis(scores, 2, 0))[..., half : half + content_width]
            within = sweep.add(joined.shape[1])
            logits = np.concatenate([logits, joined[:, within]], axis=1)
            for part, rows in sweep.list_ready():
                _fill_rows(mask[part], logits, rows, reduce)
            if sweep.is_complete:
                break
            logits = logits[:, sweep.drop() :]
        return mask

    def _iterate_blocks(self, coarse: Floats) -> Iterator[Floats]:
        """Yield the scores of a few rows of tiles at a time: (rows, columns, C, side, side)."""
        side = self._side
        framed = np.pad(coarse, ((0, 0), (1, 1), (1, 1)))
        corners = [framed[:, :-1, :-1], framed[:, :-1, 1:], framed[:, 1:, :-1], framed[:, 1:, 1:]]
        cells = np.concatenate(corners).transpose(1, 2, 0)  # (rows, columns, 4 C)
        columns = cells.shape[1]
        step = max(1, tiles.PIXELS_PER_BLOCK // (columns * side * side))
        for start in range(0, len(cells), step):
            block = cells[start : start + step].reshape(-1, 4 * self._classes)
            scores = block @ self._matrix
            scores += self._bias
            yield scores.reshape(-1, columns, self._classes, side, side)


def argmax(scores: Floats) -> Array:
    """Return the index of the largest value along the first axis, uint8; the first of equal values.

    It keeps a running maximum of whole planes, which is several times faster than `np.argmax`.
    """
    best = np.array(scores[0])
    labels = np.zeros_like(best, np.uint8)
    larger = np.empty_like(best, np.bool_)
    later = larger.view(np.uint8)
    for label in range(1, len(scores)):
        np.greater(scores[label], best, out=larger)
        np.maximum(best, scores[label], out=best)
        # A later label is a larger number.
        np.multiply(later, label, out=later)
        np.maximum(labels, later, out=labels)
    return labels


def measure_softmax(scores: Floats) -> Array:
    """Return the softmax of the largest along the first axis, times 255 and rounded, uint8.

    Overwrites the scores.
    """
    scores -= scores.max(axis=0)
    np.exp(scores, out=scores)
    total: Floats = scores.sum(axis=0)
    return np.rint(255 / total).astype(np.uint8)


def _fill_rows(mask: Array, logits: Floats, rows: Neighbours, reduce: Reduce) -> None:
    """Fill output rows from source rows (C, rows, columns), in sweeps over their columns."""
    width = mask.shape[1]
    for start in range(0, width, tiles.COLUMNS_AT_ONCE):
        stop = min(start + tiles.COLUMNS_AT_ONCE, width)
        columns = Neighbours.between(logits.shape[2], width, start=start, stop=stop)
        stretched = stretch_columns(logits, columns)
        for piece, scores in iterate_rows(stretched, rows):
            mask[piece, start:stop] = reduce(scores)


def _join_tiles(tiled: NDArray[Scalar]) -> NDArray[Scalar]:
    """Join tiles (..., rows, columns, n, n) to one picture, (..., rows * n, columns * n)."""
    *leading, rows, columns, side, _ = tiled.shape
    return tiled.swapaxes(-3, -2).reshape(*leading, rows * side, columns * side)
