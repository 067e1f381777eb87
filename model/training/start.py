"""The network before its first step: from a backbone, from a weights file, or at random."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model.class_list import VOC, read_classes
from model.errors import RecipeError
from model.network import FCN
from model.state_dict import network_from_weights, read_state_dict
from model.training.backbone import (
    load_backbone,
    load_imagenet_backbone,
    zero_missing_residuals,
)
from model.training.recipe import Recipe
from model.weights import Metadata, read_weights


def start_network(
    options: argparse.Namespace, recipe: Recipe, say: Callable[..., None]
) -> tuple[FCN, frozenset[str], Metadata]:
    """Return the network before its first step, its pretrained tensors' names, and its metadata."""
    if options.init:
        return load_initial_network(options, recipe, say)
    classes = read_classes(options.classes) if options.classes else VOC
    metadata = classes.as_metadata()
    network = FCN(num_classes=len(classes), architecture=recipe.architecture)
    if options.backbone == "none":
        start = "backbone from a random start: nothing loaded"
        say(start)
        return network, frozenset(), record_start(metadata, start)
    if options.backbone == "imagenet":
        report = load_imagenet_backbone(network)
    else:
        path = Path(options.backbone)
        report = load_backbone(network, read_state_dict(path), source=path.name)
    if recipe.zero_init_residual:
        zero_missing_residuals(network, report.loaded)
    say(report)
    pretrained = frozenset(f"backbone.{name}" for name in report.loaded)
    return network, pretrained, record_start(metadata, report.summary)


def load_initial_network(
    options: argparse.Namespace, recipe: Recipe, say: Callable[..., None]
) -> tuple[FCN, frozenset[str], Metadata]:
    """Load the network of --init. If the classes differ, a new head replaces its own.

    Raises RecipeError if it has skips that the recipe's architecture lacks.
    """
    weights = read_weights(options.init)
    start = f"weights with digest {weights.metadata.digest}"
    network = network_from_weights(weights)
    masks = {key: value for key, value in weights.metadata.data.items() if key == "masks"}
    metadata = replace(weights.metadata, data=masks, scores={}, digest="")
    backbone = frozenset(name for name in weights.tensors if name.startswith("backbone."))
    if options.classes:
        named = read_classes(options.classes).as_metadata()
        is_new = named.classes != metadata.classes
        metadata = replace(metadata, classes=named.classes, palette=named.palette, data=named.data)
        if is_new:
            fresh = FCN(num_classes=len(named.classes), architecture=recipe.architecture)
            fresh.backbone.load_state_dict(network.backbone.state_dict())
            say(f"backbone from {options.init}; a new head for {len(named.classes)} classes")
            return fresh, backbone, record_start(metadata, f"backbone of {start}")
    say(f"network from {options.init}, {start}: all tensors loaded")
    if network.architecture.name != recipe.architecture:
        start = f"{network.architecture.name} {start}"
        network = add_skips(network, recipe, source=options.init)
        say(f"{recipe.architecture}: the new skips start at zero, the new upsampling is bilinear")
    return network, backbone, record_start(metadata, start)


def add_skips(network: FCN, recipe: Recipe, *, source: Path) -> FCN:
    """Make a finer network that starts with the same logits, but enlarges them in several steps.

    Of the old upsampling, only the bias is kept. Raises RecipeError if it is finer already.
    """
    finer = FCN(network.num_classes, recipe.architecture)
    if len(network.architecture.skips) > len(finer.architecture.skips):
        name = network.architecture.name
        raise RecipeError(
            f"{source} is {name}, the recipe says {recipe.architecture}: skips can be added, not "
            f"removed. Train it with --architecture {name}"
        )
    kept = {k: v for k, v in network.state_dict().items() if k != "transpose_conv.weight"}
    finer.load_state_dict(kept, strict=False)
    return finer


def record_start(metadata: Metadata, start: str) -> Metadata:
    return replace(metadata, data={"start": start, **metadata.data})
