"""Cross entropy on a CPU, image by image over tiles.

Forward and backward together, so that the logits of a batch never exist. Knows nothing of networks.
"""

from typing import Any

import torch
from torch import Tensor

from model.classes import IGNORE_INDEX
from model.training.pixel_weights import keep_hardest


class TiledCrossEntropy(torch.autograd.Function):
    """The weighted sum of all pixels' cross entropy, the sum of weights, and the correct pixels.

    `forward` computes the scores of one image, replaces them by their gradient, and reuses their
    memory for the next image. So it also does the work of `backward`, and the logits of a batch
    never exist.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cells: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        weights: Tensor,
        hard_share: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the sum of the losses, the sum of the weights, and the number of correct pixels.

        The scores of tiles are `cells @ matrix + bias`: see `model.training.tiles`.

        `cells` is (N, tiles, C, 4), `labels` and `weights` (N, tiles, pixels), `bias` (C). The
        `matrix` is (4 C, C * pixels), or (4, pixels) for every class alone.
        """
        number, tiles, classes, _ = cells.shape
        scores = cells.new_empty(tiles, classes, labels.shape[-1])
        sums = cells.new_zeros(2, dtype=torch.float64)
        hits = labels.new_zeros((), dtype=torch.int64)
        gradients = _Gradients(ctx.needs_input_grad, cells, matrix, classes)
        for n in range(number):
            torch.mm(
                cells[n].view(-1, matrix.shape[0]), matrix, out=scores.view(-1, matrix.shape[1])
            )
            if bias is not None:
                scores.add_(bias[:, None])
            losses, norm, right = _measure(scores, labels[n])
            hits += right
            weight = weights[n]
            if hard_share < 1:
                weight = keep_hardest(weight, losses, hard_share)
            sums += torch.stack([(losses * weight).sum(), weight.sum()])
            if gradients.are_needed:
                _turn_into_gradient(scores, norm, labels[n], weight)
                gradients.add(n, scores, cells, matrix)
        ctx.save_for_backward(gradients.cells, gradients.matrix, gradients.bias)
        total, mass = sums.to(cells.dtype)
        ctx.mark_non_differentiable(mass, hits)
        return total, mass, hits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        found = (None if grad is None else grad * scale for grad in ctx.saved_tensors)
        return *found, None, None, None


class _Gradients:
    """Gradients of the inputs that need one, None for the others; without cells, there are none."""

    def __init__(self, needed: Any, cells: Tensor, matrix: Tensor, classes: int) -> None:
        self.are_needed, needs_matrix, needs_bias, *_ = needed
        self.cells = torch.empty_like(cells) if self.are_needed else None
        self.matrix = torch.zeros_like(matrix) if needs_matrix else None
        self.bias = cells.new_zeros(classes) if needs_bias else None

    def add(self, n: int, scores_grad: Tensor, cells: Tensor, matrix: Tensor) -> None:
        """Take in image `n`, from the gradient of its scores."""
        own = cells[n].view(-1, matrix.shape[0])
        flat = scores_grad.view(-1, matrix.shape[1])
        assert self.cells is not None
        torch.mm(flat, matrix.t(), out=self.cells[n].view(own.shape))
        if self.matrix is not None:
            self.matrix.addmm_(own.t(), flat)
        if self.bias is not None:
            self.bias += scores_grad.sum(dim=(0, 2))


def _measure(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pixel's loss (tiles, pixels), the softmax's denominator, and the correct pixels.

    The scores (tiles, C, pixels) are replaced by the softmax's numerators.
    """
    known = labels != IGNORE_INDEX
    label = labels.long().where(known, 0)[:, None]
    # The score alone: `max(dim=1)`, which tells the class, too, is 14 times slower.
    highest = scores.amax(dim=1, keepdim=True)
    right = scores.gather(1, label)
    hits = ((right == highest)[:, 0] & known).sum()
    norm = scores.sub_(highest).exp_().sum(dim=1, keepdim=True)
    losses = (norm.log() + highest - right)[:, 0].where(known, 0)
    return losses, norm, hits


def _turn_into_gradient(scores: Tensor, norm: Tensor, labels: Tensor, weight: Tensor) -> None:
    """Replace the softmax's numerators by softmax minus one-hot, and by 0 where void."""
    label = labels.long().where(labels != IGNORE_INDEX, 0)[:, None]
    weight = weight[:, None].to(scores.dtype)
    scores.mul_(weight / norm).scatter_add_(1, label, -weight)
