"""How much each pixel counts in the cross entropy. Knows nothing of networks or of logits."""

from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from model.classes import IGNORE_INDEX

BOUNDARY_PIXELS = 8
"""A pixel is at a boundary if another class is at most this many pixels away, in each direction."""


def weigh_pixels(target: Tensor, class_weights: Tensor | None) -> Tensor:
    """Weigh each known pixel 1, or by its class, and void 0."""
    known = target != IGNORE_INDEX
    if class_weights is None:
        return known
    return class_weights[target.long().where(known, 0)] * known


def find_boundaries(target: Tensor) -> Tensor:
    """Mark the pixels with another class nearby, (N, H, W). Void is no class."""
    is_void = target == IGNORE_INDEX
    labels = target.float()
    highest = _spread_maximum(labels.masked_fill(is_void, -torch.inf))
    lowest = -_spread_maximum(-labels.masked_fill(is_void, torch.inf))
    return highest > lowest


def keep_hardest(weight: Tensor, losses: Tensor, share: float) -> Tensor:
    """Set the weights of one image's pixels to 0, except the `share` with the largest losses.

    Online hard example mining (Shrivastava et al., 2016), of pixels.
    """
    known = weight > 0
    number = ceil(share * int(known.sum()))
    if number == 0:
        return weight
    ranked = losses.where(known, -torch.inf).flatten()
    least = ranked.kthvalue(ranked.numel() - number + 1).values
    return weight * (losses >= least)


def _spread_maximum(values: Tensor) -> Tensor:
    """Give each pixel the maximum of the square of BOUNDARY_PIXELS around it."""
    side, pad = 2 * BOUNDARY_PIXELS + 1, BOUNDARY_PIXELS
    down = F.max_pool2d(values[:, None], (side, 1), stride=1, padding=(pad, 0))
    return F.max_pool2d(down, (1, side), stride=1, padding=(0, pad))[:, 0]
