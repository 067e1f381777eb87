"""Losses of regions instead of single pixels, used in addition to cross entropy: Dice and Lovász.

They need all pixels of an image at once, so they are computed at the centre of each cell of 8 x 8
pixels. Knows nothing of the network.
"""

import torch
from torch import Tensor

from model.classes import IGNORE_INDEX
from model.network import upsample_bilinear
from model.training.recipe import RegionLoss

CELL = 8
"""The side in pixels of a cell, which one measured pixel represents."""


def region_loss(coarse: Tensor, target: Tensor, kind: RegionLoss) -> Tensor:
    """Return the mean over the images of 1 - Dice, or of the Lovász-Softmax loss.

    Coarse logits (N, C, h, w), target (N, H, W) of every pixel. An image's loss is the mean over
    the classes in its target; one that is all void has none. Logits are interpolated bilinearly to
    the cells.
    """
    labels = target[:, CELL // 2 :: CELL, CELL // 2 :: CELL].long()
    factor = labels.shape[1] // coarse.shape[2]
    probabilities = upsample_bilinear(coarse, factor).softmax(dim=1)
    of_class = {"dice": dice, "lovasz": lovasz}[kind]
    losses = []
    for own, label in zip(probabilities, labels, strict=True):
        known = label != IGNORE_INDEX
        present = torch.unique(label[known]).tolist()
        for index in present:
            foreground = (label[known] == index).to(own.dtype)
            losses.append(of_class(own[index][known], foreground) / len(present))
    if not losses:
        return probabilities.sum() * 0  # a gradient for data parallelism to share
    return torch.stack(losses).sum() / len(coarse)


def dice(probability: Tensor, foreground: Tensor) -> Tensor:
    """Compute 1 - 2 |A and B| / (|A| + |B|) of a soft set A.

    Milletari et al., "V-Net", 2016, section 3.
    """
    both = (probability * foreground).sum()
    return 1 - 2 * both / (probability.sum() + foreground.sum())


def lovasz(probability: Tensor, foreground: Tensor) -> Tensor:
    """Compute the Lovász extension of 1 - IoU.

    It is the sum of the errors in descending order, each times what IoU loses when that pixel is
    wrong, too (Berman et al., "The Lovász-Softmax Loss", 2018, section 2).
    """
    errors = (foreground - probability).abs()
    errors, order = errors.sort(descending=True)
    ordered = foreground[order]
    total = ordered.sum()
    intersection = total - ordered.cumsum(0)
    union = total + (1 - ordered).cumsum(0)
    jaccard = 1 - intersection / union
    steps = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return (errors * steps).sum()
