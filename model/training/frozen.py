"""The layers that do not learn. Knows nothing of losses or of data."""

from itertools import takewhile
from typing import get_args

from torch import nn

from model.network import BACKBONE_CHILDREN, FCN
from model.training.recipe import BackboneChild, Recipe


def freeze_layers(network: FCN, recipe: Recipe) -> None:
    """Keep the weights of layers that the recipe does not train.

    `train_step` keeps the statistics of frozen layers of the backbone.
    """
    network.transpose_conv.requires_grad_(recipe.train_transpose_conv)
    for name in recipe.frozen:
        network.backbone.get_submodule(name).requires_grad_(False)


def count_frozen_start(recipe: Recipe) -> int:
    """How many of the backbone's first children do not learn, before the first that does.

    The activation and the pooling, which have no weights, belong to what they follow.
    """
    learnt = set(get_args(BackboneChild)) - set(recipe.frozen)
    return len(list(takewhile(lambda name: name not in learnt, BACKBONE_CHILDREN)))


def take_frozen_start(network: FCN, recipe: Recipe) -> nn.Sequential:
    """The backbone's first children that do not learn."""
    return network.backbone[: count_frozen_start(recipe)]
