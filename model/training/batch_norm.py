"""How batch norms get their statistics while a network learns. Knows nothing of losses."""

from torch import nn

from model.errors import RecipeError
from model.network import FCN
from model.training.distributed import Group
from model.training.recipe import Recipe

BatchNorms = nn.modules.batchnorm._BatchNorm  # noqa: SLF001, it has no public name


def synchronise_batch_norms(network: FCN, recipe: Recipe, group: Group) -> None:
    """Use statistics of the whole batch if several processes share it and the recipe says so.

    Tensor names do not change. Raises RecipeError on the CPU, which PyTorch does not support.
    """
    if not recipe.sync_batch_norm or group.world_size == 1:
        return
    if group.device.type == "cpu":
        raise RecipeError("--sync-batch-norm works on GPUs only: omit it on the CPU")
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    network.backbone = convert(network.backbone)  # type: ignore[no-untyped-call]


def start_learning(network: FCN, recipe: Recipe) -> None:
    """Switch to training mode, except for batch norms with frozen statistics."""
    network.train()
    for name in recipe.frozen:
        network.backbone.get_submodule(name).eval()
    if recipe.freeze_statistics:
        for module in network.modules():
            if isinstance(module, BatchNorms):
                module.eval()
