"""The loss of a batch: upsampling and cross entropy of every known pixel, together.

On a GPU through full logits; on a CPU tile by tile, so that they never exist. Knows nothing of
optimisers or of epochs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.classes import IGNORE_INDEX
from model.network import FCN, bilinear_kernel, upsample_bilinear
from model.training.distributed import Group
from model.training.frozen import count_frozen_start
from model.training.pixel_weights import find_boundaries, keep_hardest, weigh_pixels
from model.training.recipe import Recipe
from model.training.region_loss import region_loss
from model.training.tiled_loss import TiledCrossEntropy
from model.training.tiles import (
    build_bilinear_matrix,
    build_upsampling_matrix,
    cut_tiles,
    gather_cells,
)


class PixelLoss(nn.Module):
    """The network with its loss: one forward call, so that data parallelism can wrap it."""

    def __init__(
        self, network: FCN, recipe: Recipe, *, autocast: bool, group: Group | None = None
    ) -> None:
        """`group`: the processes that share each batch. Each calls this with its share."""
        super().__init__()
        self.network = network
        self.coarse_logits = network.coarse_logits
        self.recipe = recipe
        self.autocast = autocast
        self.group = group
        self.class_weights: Tensor | None = None
        if recipe.class_weights:
            self.class_weights = network.final_conv.weight.new_tensor(recipe.class_weights)
        # A kernel that is bilinear and frozen can be computed as an interpolation: much faster.
        self.interpolates = not recipe.train_transpose_conv and has_bilinear_upsampling(network)

    def compile_network(self, backend: str = "inductor") -> None:
        """Compile the network's own passes in the first step, which then takes minutes."""
        self.coarse_logits = torch.compile(
            self.network.coarse_logits, dynamic=False, backend=backend
        )

    def forward(
        self, images: Tensor, target: Tensor, probabilities: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss and (hits, known pixels) of images (N, 3, H, W) and targets (N, H, W).

        Instead of images it takes their features, the output of the frozen layers, which have other
        than three channels. `probabilities` are soft labels, (N, H / 8, W / 8, C). In a group, the
        mean of the processes' losses, and of their gradients, is that of the whole batch.
        """
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.autocast):
            first = 0 if images.shape[1] == 3 else count_frozen_start(self.recipe)
            coarse = self.coarse_logits(images, first=first)
        # Only the network computes in bfloat16. float64 stays float64.
        coarse = coarse.to(torch.promote_types(coarse.dtype, torch.float32))
        stride, whole_target = self.recipe.loss_stride, target
        weights = self.weigh(whole_target)[:, stride // 2 :: stride, stride // 2 :: stride]
        target = target[:, stride // 2 :: stride, stride // 2 :: stride]
        known = (target != IGNORE_INDEX).sum()
        is_tiled = images.device.type == "cpu" and stride == 1
        measure = self.compute_tiled if is_tiled else self.compute_dense
        total, mass, hits = measure(coarse, target, weights)
        # Void has no loss, but counts in an image's mean, as in the notebook.
        is_sum = self.recipe.loss_reduction == "image_sum"
        loss = total / target[0].numel() if is_sum else total / self._share(mass)
        images_summed = len(images) if is_sum else 1
        if probabilities is not None and self.recipe.soft_weight:
            soft, cells = soft_cross_entropy(coarse, probabilities, self.recipe.temperature)
            soft = soft / self._share(cells) * images_summed
            loss = (1 - self.recipe.soft_weight) * loss + self.recipe.soft_weight * soft
        if self.recipe.region_loss != "none":
            region = region_loss(coarse, whole_target, self.recipe.region_loss)
            loss = loss + self.recipe.region_weight * region * images_summed
        if is_sum and self.group:
            loss = loss * self.group.world_size
        return loss, torch.stack([hits, known])

    def weigh(self, target: Tensor) -> Tensor:
        """Return the weight of each pixel: that of its class, times the boundary's. Void has 0."""
        weights = weigh_pixels(target, self.class_weights)
        if self.recipe.boundary_weight == 1:
            return weights
        return weights * torch.where(find_boundaries(target), self.recipe.boundary_weight, 1.0)

    def _share(self, count: Tensor) -> Tensor:
        """Return the divisor of a process' sum: the batch's count by the number of processes.

        With its own count as divisor, the pixels of a share with much void would weigh more than
        others. Without gradients nothing is shared, because one process may measure alone.
        """
        if self.group is None or self.group.world_size == 1 or not torch.is_grad_enabled():
            return count.clamp(min=1)
        everyone = self.group.sum(count.clone())
        return everyone.clamp(min=1) / self.group.world_size

    def compute_dense(
        self, coarse: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sum of all losses, the sum of their weights, and the number of hits."""
        stride = self.recipe.loss_stride
        if self.interpolates:
            bias = self.network.transpose_conv.bias
            assert bias is not None, "FCN has one"
            logits = upsample_bilinear(coarse, self.network.architecture.stride // stride)
            logits = logits + bias[:, None, None]
        else:
            logits = self.network.transpose_conv(coarse)
            logits = logits[..., stride // 2 :: stride, stride // 2 :: stride]
        target = target.long()
        with torch.no_grad():
            hits = (logits.max(dim=1).indices == target).sum()  # void is no class, so never correct
        losses = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="none")
        if self.recipe.hard_share < 1:
            weights = torch.stack(
                [
                    keep_hardest(own, loss, self.recipe.hard_share)
                    for own, loss in zip(weights, losses.detach(), strict=True)
                ]
            )
        return (losses * weights).sum(), weights.sum().to(losses.dtype), hits

    def compute_tiled(
        self, coarse: Tensor, target: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the same by tiles (`gather_cells`): 4 times faster on a CPU, in less memory."""
        up, side = self.network.transpose_conv, self.network.architecture.stride
        matrix = (
            build_bilinear_matrix(side).to(coarse.dtype)
            if self.interpolates
            else build_upsampling_matrix(up.weight)
        )
        labels = cut_tiles(target, side, outside=IGNORE_INDEX)
        total, mass, hits = TiledCrossEntropy.apply(
            gather_cells(coarse),
            matrix,
            up.bias,
            labels,
            cut_tiles(weights, side, outside=0),
            self.recipe.hard_share,
        )
        return total, mass, hits


def soft_cross_entropy(
    coarse: Tensor, probabilities: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Sum the cross entropy against a teacher's distribution, and count the cells that have one.

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
    loss = -(temperature**2) * (teacher * F.log_softmax(logits, dim=1)).sum()
    return loss, (total > 0).sum()


def has_bilinear_upsampling(network: FCN) -> bool:
    """Return whether the last step only interpolates and adds its bias."""
    up = network.transpose_conv
    kernel = bilinear_kernel(up.in_channels, up.out_channels, up.kernel_size[0])
    return torch.equal(up.weight.cpu(), kernel)
