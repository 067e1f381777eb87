"""The layers that do not learn. Knows nothing of losses or of data."""

from itertools import takewhile
from typing import get_args

from torch import nn

from model.architectures import ARCHITECTURES
from model.network import BACKBONE_CHILDREN, FCN
from model.training.recipe import BackboneChild, Recipe


def freeze_layers(network: FCN, recipe: Recipe) -> None:
    """Keep the weights of layers that the recipe does not train.

    `train_step` keeps the statistics of frozen layers of the backbone.
    """
    network.transpose_conv.requires_grad_(recipe.train_transpose_conv)
    network.doublings.requires_grad_(recipe.train_transpose_conv)
    for name in recipe.frozen:
        network.backbone.get_submodule(name).requires_grad_(False)


def count_frozen_start(recipe: Recipe) -> int:
    """Count the frozen children of the backbone before the first one that learns.

    Activation and pooling, which have no weights, count with the layer that they follow. Children
    after a layer from which a skip starts do not count, because its features are needed, too.
    """
    learnt = set(get_args(BackboneChild)) - set(recipe.frozen)
    frozen = len(list(takewhile(lambda name: name not in learnt, BACKBONE_CHILDREN)))
    starts = [BACKBONE_CHILDREN.index(skip) for skip in ARCHITECTURES[recipe.architecture].skips]
    return min([frozen, *(start + 1 for start in starts)])


def take_frozen_start(network: FCN, recipe: Recipe) -> nn.Sequential:
    """Return the backbone's first children that do not learn."""
    return network.backbone[: count_frozen_start(recipe)]
