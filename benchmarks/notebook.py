"""The teaching notebook's network in plain PyTorch, from the book's facts: what we compare with.

Takes from this project nothing but the trained numbers.
"""

import torch
from torch import nn
from torchvision.models import resnet18

from model.weights import Weights


def notebook_network(weights: Weights) -> nn.Sequential:
    """Ready to predict: (N, 3, H, W) normalised to logits (N, C, H, W)."""
    classes = len(weights.metadata.classes)
    children = dict(list(resnet18().named_children())[:-2])
    network = nn.Sequential(*children.values())
    network.add_module("final_conv", nn.Conv2d(512, classes, kernel_size=1))
    network.add_module(
        "transpose_conv",
        nn.ConvTranspose2d(classes, classes, kernel_size=64, padding=16, stride=32),
    )
    positions = {f"backbone.{name}.": f"{position}." for position, name in enumerate(children)}
    state = {}
    for name, array in weights.tensors.items():
        for child, position in positions.items():
            name = name.replace(child, position)
        state[name] = torch.tensor(array)
    network.load_state_dict(state)
    return network.eval()
