"""SGD, its parameter groups and the schedule of the learning rate. Knows nothing of losses."""

from typing import Any

from torch.optim import SGD

from model.network import FCN
from model.training.recipe import Recipe


def create_optimiser(network: FCN, recipe: Recipe, pretrained: frozenset[str]) -> SGD:
    """Create the optimiser of a network on its device. A GPU updates all tensors at once."""
    return SGD(
        group_parameters(network, recipe, pretrained),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
        fused=True if network.final_conv.weight.is_cuda else None,
    )


def group_parameters(
    network: FCN, recipe: Recipe, pretrained: frozenset[str]
) -> list[dict[str, Any]]:
    """Two groups: what starts at random learns at `lr`, what was loaded at `lr_pretrained`."""
    trained = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    fresh = [p for n, p in trained if n not in pretrained]
    loaded = [p for n, p in trained if n in pretrained]
    groups = [(fresh, recipe.lr), (loaded, recipe.lr_pretrained)]
    return [{"params": p, "lr": lr, "base_lr": lr} for p, lr in groups if p]


def compute_lr_factor(step: int, total: int, recipe: Recipe) -> float:
    """Poly decay (Chen et al., DeepLab, 2017, section 4.1) after a linear warm-up.

    The warm-up takes at most a twentieth of the run: a short one would end before its learning
    rate is reached.
    """
    warmup_steps = min(recipe.warmup_steps, total // 20)
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    return float(warmup * (1 - step / total) ** recipe.poly_power)
