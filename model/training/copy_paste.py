"""Copy-paste: the objects of one image of the batch, with their labels, on another's.

Ghiasi et al., "Simple Copy-Paste", 2021, without instances: all objects of a view are pasted.
Knows nothing of networks.
"""

import numpy as np
import torch
from torch import Tensor

from model.classes import IGNORE_INDEX


def paste_objects(
    batch: tuple[Tensor, ...], *, share: float, rng: np.random.Generator
) -> tuple[Tensor, ...]:
    """Give a `share` of the samples the objects of the next sample of the batch.

    `batch` is images (N, H, W, 3) and targets (N, H, W), and perhaps soft labels of cells of
    pixels, (N, H / cell, W / cell, classes). An object is whatever is neither background nor void.
    A cell's soft labels are mixed in proportion to the pixels that it gives and keeps.
    """
    images, targets, *soft_labels = (tensor.clone() for tensor in batch)
    for place in range(len(targets)):
        if rng.random() >= share:
            continue
        other = (place + 1) % len(targets)
        objects = (batch[1][other] != 0) & (batch[1][other] != IGNORE_INDEX)
        images[place] = torch.where(objects[..., None], batch[0][other], images[place])
        targets[place] = torch.where(objects, batch[1][other], targets[place])
        for soft, source in zip(soft_labels, batch[2:], strict=True):
            pasted = _average_cells(objects, soft.shape[1:3])[..., None]
            soft[place] = torch.lerp(soft[place], source[other], pasted)
    return images, targets, *soft_labels


def _average_cells(pixels: Tensor, cells: torch.Size) -> Tensor:
    """The share of set pixels in each cell: (H, W) boolean to (h, w) float32."""
    rows, columns = cells
    height, width = pixels.shape
    blocks = pixels.float().view(rows, height // rows, columns, width // columns)
    return blocks.mean(dim=(1, 3))
