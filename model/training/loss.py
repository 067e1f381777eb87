"""The loss of a batch: upsampling and cross entropy of every known pixel, together.

On a GPU through full logits; on a CPU tile by tile, so that they never exist. Knows nothing of
optimisers or of epochs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.classes import IGNORE_INDEX
from model.network import FCN, bilinear_kernel, upsample_bilinear
from model.training.recipe import Recipe
from model.training.tiles import bilinear_matrix, cut_tiles, gather_cells, upsampling_matrix


class PixelLoss(nn.Module):
    """The network with its loss: one forward call, so that data parallelism can wrap it."""

    def __init__(self, network: FCN, recipe: Recipe, *, autocast: bool) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.autocast = autocast
        # A kernel that is still bilinear, and stays so, is an interpolation: much faster.
        self.interpolates = not recipe.train_transpose_conv and has_bilinear_upsampling(network)

    def forward(
        self, images: Tensor, target: Tensor, probabilities: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W), target (N, H, W) integers, to the loss and (hits, known pixels).

        `probabilities` are soft labels, (N, H / 8, W / 8, C).
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            coarse = self.network.coarse_logits(images)
        known = (target != IGNORE_INDEX).sum()
        measure = self._tiled if images.device.type == "cpu" else self._dense
        # bfloat16 is for the network alone; float64 stays what it is.
        total, hits = measure(coarse.to(torch.promote_types(coarse.dtype, torch.float32)), target)
        # Void has no loss, but an image's mean is over all of its pixels, as PyTorch's is.
        is_sum = self.recipe.loss_reduction == "image_sum"
        pixels = target[0].numel() if is_sum else known.clamp(min=1)
        loss = total / pixels
        if probabilities is not None and self.recipe.soft_weight:
            soft = soft_cross_entropy(coarse.float(), probabilities, self.recipe.temperature)
            soft_weight = self.recipe.soft_weight
            loss = (1 - soft_weight) * loss + soft_weight * soft * (len(images) if is_sum else 1)
        return loss, torch.stack([hits, known])

    def _dense(self, coarse: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of all pixels, summed, and how many of them are right; through full logits."""
        upsample = upsample_bilinear if self.interpolates else self.network.transpose_conv
        logits = upsample(coarse)
        target = target.long()
        with torch.no_grad():
            hits = (logits.max(dim=1).indices == target).sum()  # void is no class, so never right
        per_pixel = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="none")
        return per_pixel.sum(), hits

    def _tiled(self, coarse: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The same tile by tile (see `gather_cells`): on a CPU 4 times faster, and smaller."""
        up = self.network.transpose_conv
        matrix = bilinear_matrix() if self.interpolates else upsampling_matrix(up.weight)
        bias = None if self.interpolates else up.bias
        labels = cut_tiles(target, outside=IGNORE_INDEX)
        total, hits = TiledCrossEntropy.apply(gather_cells(coarse), matrix, bias, labels)
        return total, hits


def soft_cross_entropy(coarse: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
    """Cross entropy against a teacher's distribution, the mean over the cells that have one.

    Coarse logits (N, C, h, w) are interpolated to the middle of each cell of `probabilities`
    (N, h', w', C), whose h' is a multiple of h; a cell without a distribution is all zero. Both
    distributions are softened by the temperature, and the loss is multiplied by its square (Hinton
    et al., 2015, section 2.1).
    """
    factor = probabilities.shape[1] // coarse.shape[2]
    logits = upsample_bilinear(coarse, factor) / temperature
    teacher = probabilities.permute(0, 3, 1, 2) ** (1 / temperature)
    total = teacher.sum(dim=1, keepdim=True)
    teacher = teacher / total.clamp(min=1e-6)
    cells = (total > 0).sum().clamp(min=1)
    return -(temperature**2) * (teacher * F.log_softmax(logits, dim=1)).sum() / cells


class TiledCrossEntropy(torch.autograd.Function):
    """Cross entropy of all known pixels, summed, and how many are right, image by image.

    An image's scores are made, turned into their gradient where they lie, and overwritten by the
    next image's: what `backward` needs is done in `forward`, and the logits of a batch never exist.
    """

    @staticmethod
    def forward(
        ctx: Any, cells: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The scores of tiles are `cells @ matrix + bias`: see `model.training.tiles`.

        `cells` is (N, tiles, C, 4), `labels` (N, tiles, pixels), `bias` (C). The `matrix` is
        (4 C, C * pixels), or (4, pixels) for every class alone.
        """
        number, tiles, classes, _ = cells.shape
        scores = cells.new_empty(tiles, classes, labels.shape[-1])
        flat = scores.view(-1, matrix.shape[1])
        total = cells.new_zeros((), dtype=torch.float64)
        hits = labels.new_zeros((), dtype=torch.int64)
        learns, learns_matrix, learns_bias, _ = ctx.needs_input_grad
        cells_grad = torch.empty_like(cells) if learns else None
        matrix_grad = torch.zeros_like(matrix) if learns_matrix else None
        bias_grad = cells.new_zeros(classes) if learns_bias else None
        for n in range(number):
            own = cells[n].view(-1, matrix.shape[0])
            known = (labels[n] != IGNORE_INDEX)[:, None]
            label = labels[n].long()[:, None].where(known, 0)
            torch.mm(own, matrix, out=flat)
            if bias is not None:
                scores.add_(bias[:, None])
            # The score alone: `max(dim=1)`, which tells the class, too, is 14 times slower.
            highest = scores.amax(dim=1, keepdim=True)
            right = scores.gather(1, label)
            hits += ((right == highest) & known).sum()
            norm = scores.sub_(highest).exp_().sum(dim=1, keepdim=True)
            total += (norm.log() + highest - right).where(known, 0).sum()
            if cells_grad is None:
                continue
            # Softmax minus one-hot, nothing where void.
            scores.mul_(known / norm).scatter_add_(1, label, -known.to(scores.dtype))
            torch.mm(flat, matrix.t(), out=cells_grad[n].view(own.shape))
            if matrix_grad is not None:
                matrix_grad.addmm_(own.t(), flat)
            if bias_grad is not None:
                bias_grad += scores.sum(dim=(0, 2))
        ctx.save_for_backward(cells_grad, matrix_grad, bias_grad)
        ctx.mark_non_differentiable(hits)
        return total.to(cells.dtype), hits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scale = grads[0]
        return *(None if grad is None else grad * scale for grad in ctx.saved_tensors), None


def has_bilinear_upsampling(network: FCN) -> bool:
    up = network.transpose_conv
    kernel = bilinear_kernel(up.in_channels, up.out_channels, up.kernel_size[0])
    return torch.equal(up.weight.cpu(), kernel) and (up.bias is None or not up.bias.any())
