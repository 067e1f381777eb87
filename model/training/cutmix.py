"""CutMix: a window of one image of the batch, with its labels, in the place of another's.

Yun et al., "CutMix", 2019; for segmentation French et al., 2020. Knows nothing of networks.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.architectures import BACKBONE_STRIDE
from model.engines.base import Size
from model.training.transfer import send

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
    drawn = draw_windows(len(batch[0]), (rows, columns), share=share, rng=rng)
    windows = send(torch.from_numpy(drawn), batch[0].device)
    return tuple(_mix(tensor, windows) for tensor in batch)


def draw_windows(
    number: int, cells: Size, *, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw the cells that each sample takes from the next one, (number, rows, columns)."""
    windows = np.zeros((number, *cells), np.bool_)
    for window in windows:
        if rng.random() < share:
            window[_draw_span(cells[0], rng), _draw_span(cells[1], rng)] = True
    return windows


def _draw_span(cells: int, rng: np.random.Generator) -> slice:
    length = max(1, round(cells * rng.uniform(*SIDES)))
    start = int(rng.integers(0, cells - length + 1))
    return slice(start, start + length)


def _mix(tensor: Tensor, windows: Tensor) -> Tensor:
    _, rows, columns = windows.shape
    high, wide = tensor.shape[1] // rows, tensor.shape[2] // columns
    own = tensor.view(len(tensor), rows, high, columns, wide, -1)
    other = own.roll(-1, dims=0)
    return torch.where(windows[:, :, None, :, None, None], other, own).view(tensor.shape)
