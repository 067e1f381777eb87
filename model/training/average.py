"""A running average of a network's weights, which is validated and saved in their place.

Knows nothing of losses or of schedules.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from model.network import FCN


class WeightsAverage:
    """An exponential moving average (Polyak and Juditsky, 1992) of parameters and statistics."""

    def __init__(self, network: FCN, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self, network: FCN, step: int) -> None:
        """Update after step `step`, from 1. Early steps weigh more, so that the start fades."""
        decay = min(self.decay, step / (step + 10))
        own, new = _split(self.network), _split(network)
        torch._foreach_lerp_(own[0], new[0], 1 - decay)
        torch._foreach_copy_(own[1], new[1])

    def state_dict(self) -> dict[str, Any]:
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state)


def _split(network: FCN) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors that can be averaged, and the counters that cannot."""
    tensors = list(network.state_dict().values())
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    return floats, [tensor for tensor in tensors if not tensor.is_floating_point()]
