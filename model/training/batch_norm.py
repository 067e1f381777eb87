"""How batch norms get their statistics while a network learns. Knows nothing of losses."""

from torch import nn

from model.errors import RecipeError
from model.network import FCN
from model.training.distributed import Group
from model.training.recipe import Recipe

BatchNorms = nn.modules.batchnorm._BatchNorm  # noqa: SLF001, it has no public name


def synchronise_batch_norms(network: FCN, recipe: Recipe, group: Group) -> None:
    """Statistics over the whole batch where several processes share it, if the recipe says so.

    Names of tensors stay. Raises RecipeError on the CPU, where PyTorch cannot.
    """
    if not recipe.sync_batch_norm or group.world_size == 1:
        return
    if group.device.type == "cpu":
        raise RecipeError("--sync-batch-norm works on GPUs only: omit it on the CPU")
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    network.backbone = convert(network.backbone)  # type: ignore[no-untyped-call]


def start_learning(network: FCN, recipe: Recipe) -> None:
    """Training mode; frozen statistics are those that the network started with."""
    network.train()
    for name in recipe.frozen:
        network.backbone.get_submodule(name).eval()
    if recipe.freeze_statistics:
        for module in network.modules():
            if isinstance(module, BatchNorms):
                module.eval()
