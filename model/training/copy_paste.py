"""Copy-paste: the objects of one image of the batch, with their labels, on another's.

Ghiasi et al., "Simple Copy-Paste", 2021, without instances: all objects of a view are pasted.
Knows nothing of networks.
"""

import numpy as np
import torch
from torch import Tensor

from model.classes import IGNORE_INDEX
from model.training.transfer import send


def paste_objects(
    batch: tuple[Tensor, ...], *, share: float, rng: np.random.Generator
) -> tuple[Tensor, ...]:
    """Give a `share` of the samples the objects of the next sample of the batch.

    `batch` is images (N, H, W, 3) and targets (N, H, W), and perhaps soft labels of cells of
    pixels, (N, H / cell, W / cell, classes). An object is whatever is neither background nor void.
    A cell's soft labels are mixed in proportion to the pixels that it gives and keeps.
    """
    images, targets, *soft_labels = batch
    drawn = torch.from_numpy(rng.random(len(targets)) < share)
    chosen = send(drawn, targets.device)[:, None, None]
    others = [tensor.roll(-1, dims=0) for tensor in batch]
    objects = chosen & (others[1] != 0) & (others[1] != IGNORE_INDEX)
    mixed = [
        torch.lerp(own, other, _average_cells(objects, own.shape[1:3])[..., None])
        for own, other in zip(soft_labels, others[2:], strict=True)
    ]
    return (
        torch.where(objects[..., None], others[0], images),
        torch.where(objects, others[1], targets),
        *mixed,
    )


def _average_cells(pixels: Tensor, cells: torch.Size) -> Tensor:
    """Return the share of set pixels in each cell: (N, H, W) boolean to (N, h, w) float32."""
    rows, columns = cells
    number, height, width = pixels.shape
    blocks = pixels.view(number, rows, height // rows, columns, width // columns)
    return blocks.float().mean(dim=(2, 4))
