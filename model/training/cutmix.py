"""CutMix: a window of one image of the batch, with its labels, in the place of another's.

Yun et al., "CutMix", 2019; for segmentation French et al., 2020. Knows nothing of networks.
"""

import numpy as np
from torch import Tensor

from model.architectures import BACKBONE_STRIDE
from model.engines.base import Size

SIDES = (0.3, 0.7)
"""Bounds of the window's sides, as shares of the crop's sides."""


def mix_batch(
    batch: tuple[Tensor, ...], *, crop: Size, share: float, rng: np.random.Generator
) -> tuple[Tensor, ...]:
    """Give a `share` of the samples a window of the next sample of the batch.

    Each tensor is a map of the crop, (N, rows, columns, ...), with an entry for each pixel or for
    each cell of up to 32 x 32 pixels. The window's edges are multiples of 32 pixels, so they never
    cut a cell.
    """
    rows, columns = crop[0] // BACKBONE_STRIDE, crop[1] // BACKBONE_STRIDE
    mixed = tuple(tensor.clone() for tensor in batch)
    for place in range(len(batch[0])):
        if rng.random() >= share:
            continue
        top, bottom = _draw_span(rows, rng)
        left, right = _draw_span(columns, rng)
        other = (place + 1) % len(batch[0])
        for target, source in zip(mixed, batch, strict=True):
            high, wide = target.shape[1] // rows, target.shape[2] // columns
            window = np.s_[top * high : bottom * high, left * wide : right * wide]
            target[place][window] = source[other][window]
    return mixed


def _draw_span(cells: int, rng: np.random.Generator) -> tuple[int, int]:
    length = max(1, round(cells * rng.uniform(*SIDES)))
    start = int(rng.integers(0, cells - length + 1))
    return start, start + length
