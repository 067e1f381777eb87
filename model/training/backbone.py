"""The pretrained backbone: torchvision's ImageNet weights or a local file, complete or not.

Knows nothing of what follows the backbone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock

from model.errors import NetworkError
from model.network import FCN
from model.state_dict import list_some


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The names of the tensors that `load_backbone` found, in the network's order."""

    source: str
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        total = len(self.loaded) + len(self.missing)
        return f"backbone from {self.source}: {len(self.loaded)} of {total} tensors loaded"

    def __str__(self) -> str:
        lines = [self.summary]
        if self.missing:
            lines.append(f"  not in it, left at their random start: {', '.join(self.missing)}")
        if self.ignored:
            lines.append(f"  in it, but not part of the backbone: {', '.join(self.ignored)}")
        return "\n".join(lines)


def load_imagenet_backbone(network: FCN) -> LoadReport:
    """Give the backbone torchvision's ImageNet weights, fetched on first use.

    Raises NetworkError where they cannot be fetched.
    """
    weights = ResNet18_Weights.IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise NetworkError(
            f"cannot fetch {weights} ({error}). Without a network, give a local file with "
            "--backbone FILE (a ResNet-18 state dict, complete or not), or train from a random "
            "start with --backbone none"
        ) from error
    return load_backbone(network, state, source=f"torchvision {weights}")


def load_backbone(network: FCN, state: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Copy `state`, with torchvision's ResNet-18 names, into the backbone and report the rest.

    Raises NetworkError for a tensor of another shape, and if nothing at all matches.
    """
    own = network.backbone.state_dict()
    shared = {name: tensor for name, tensor in state.items() if name in own}
    for name, tensor in shared.items():
        if tensor.shape != own[name].shape:
            raise NetworkError(
                f"{source}: {name} has shape {tuple(tensor.shape)}, "
                f"ResNet-18 expects {tuple(own[name].shape)}"
            )
    if not shared:
        found = list_some(state)
        raise NetworkError(
            f"{source}: no tensor with a ResNet-18 name such as conv1.weight; found {found}"
        )
    network.backbone.load_state_dict(shared, strict=False)
    return LoadReport(
        source=source,
        loaded=tuple(name for name in own if name in shared),
        missing=tuple(name for name in own if name not in shared),
        ignored=tuple(name for name in state if name not in own),
    )


def zero_missing_residuals(network: FCN, loaded: Iterable[str]) -> None:
    """Make the residual blocks whose last batch norm was not loaded start as the identity.

    `loaded` has the backbone's names of tensors.
    """
    present = set(loaded)
    for name, module in network.backbone.named_modules():
        if isinstance(module, BasicBlock) and f"{name}.bn2.weight" not in present:
            nn.init.zeros_(module.bn2.weight)
