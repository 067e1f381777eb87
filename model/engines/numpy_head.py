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
from model.engines.base import Array, Region, Size
from model.engines.folding import Floats, FoldedNetwork
from model.engines.tiles import Neighbours

Reduce = Callable[[Floats], Array]
"""Logits (C, ...) to one byte for each pixel."""

Scalar = TypeVar("Scalar", np.float32, np.uint8)

# At least this many rows of a scaled mask are computed at once.
ROWS_AT_ONCE = 32


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
        mask = np.empty(region.output, np.uint8)
        columns = Neighbours.between(region.content[1], width)
        for start in range(0, width, tiles.COLUMNS_AT_ONCE):
            stop = min(start + tiles.COLUMNS_AT_ONCE, width)
            part = columns.cut(start, stop)
            self._fill(mask[:, start:stop], coarse, region.content, part, reduce)
        return mask

    def _fill(
        self, mask: Array, coarse: Floats, content: Size, columns: Neighbours, reduce: Reduce
    ) -> None:
        """Sweep down over the canvas; write each output row once both of its source rows exist."""
        height, width = mask.shape
        half = self._side // 2
        rows = Neighbours.between(content[0], height)
        rows_at_once = max(ROWS_AT_ONCE, tiles.PIXELS_AT_ONCE // width)
        done = 0
        kept = np.empty((self._classes, 0, width), np.float32)
        kept_from = 0  # the canvas row of kept[:, 0]
        canvas_row = -half
        for scores in self._iterate_blocks(coarse):
            logits = _join_tiles(np.moveaxis(scores, 2, 0))
            logits = logits[:, max(0, -canvas_row) : content[0] - canvas_row, half:]
            left, right = logits[..., columns.first], logits[..., columns.second]
            kept = np.concatenate([kept, _blend(left, right, columns.share)], axis=1)
            canvas_row += len(scores) * self._side
            ready = int(rows.second.searchsorted(kept_from + kept.shape[1]))
            for start in range(done, ready, rows_at_once):
                part = rows.cut(start, min(start + rows_at_once, ready))
                upper, lower = kept[:, part.first - kept_from], kept[:, part.second - kept_from]
                scaled = _blend(upper, lower, part.share[:, None])
                mask[start : start + len(part.share)] = reduce(scaled)
            done = ready
            if done == height:
                break
            kept = kept[:, rows.first[done] - kept_from :]
            kept_from = int(rows.first[done])

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
    """The index of the largest value along the first axis, uint8; the first of equal values.

    It keeps a running maximum of whole planes, which is several times faster than `np.argmax`.
    """
    best = scores[0].copy()
    labels = np.zeros(best.shape, np.uint8)
    larger = np.empty(best.shape, np.bool_)
    for label in range(1, len(scores)):
        np.greater(scores[label], best, out=larger)
        np.copyto(labels, label, where=larger)
        np.maximum(best, scores[label], out=best)
    return labels


def measure_softmax(scores: Floats) -> Array:
    """The softmax of the largest along the first axis, times 255 and rounded, uint8."""
    best = scores.max(axis=0)
    total = np.zeros(best.shape, np.float32)
    for logits in scores:
        total += np.exp(logits - best)
    return np.rint(255 / total).astype(np.uint8)


def _blend(first: Floats, second: Floats, share: Floats) -> Floats:
    """Compute first + (second - first) * share in the memory of `second`."""
    second -= first
    second *= share
    second += first
    return second


def _join_tiles(tiled: NDArray[Scalar]) -> NDArray[Scalar]:
    """Tiles (..., rows, columns, n, n) as one picture, (..., rows * n, columns * n)."""
    *leading, rows, columns, side, _ = tiled.shape
    return tiled.swapaxes(-3, -2).reshape(*leading, rows * side, columns * side)
