"""The architectures: FCN-32s, FCN-16s and FCN-8s of Long, Shelhamer and Darrell (2015).

They differ in how fine their coarse logits are. Knows nothing of torch.
"""

from dataclasses import dataclass
from typing import Literal

ArchitectureName = Literal["fcn32s", "fcn16s", "fcn8s"]

BACKBONE_STRIDE = 32
"""The backbone halves its input five times."""

SKIP_CHANNELS = {"layer3": 256, "layer2": 128}
"""The layers of the backbone from which skips start, and the channels of their features."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """An architecture of the paper, and the properties that follow from it."""

    name: ArchitectureName
    identifier: str
    """The name of the architecture in a weights file."""
    skips: tuple[str, ...]
    """The layers of the backbone that have a classifier of their own, the coarsest first."""

    @property
    def stride(self) -> int:
        """The distance between two coarse logits in pixels. Each skip halves it."""
        return BACKBONE_STRIDE >> len(self.skips)


ARCHITECTURES: dict[ArchitectureName, Architecture] = {
    # This identifier has no stride, because it is older than the other architectures.
    "fcn32s": Architecture("fcn32s", "fcn_resnet18", ()),
    "fcn16s": Architecture("fcn16s", "fcn16s_resnet18", ("layer3",)),
    "fcn8s": Architecture("fcn8s", "fcn8s_resnet18", ("layer3", "layer2")),
}

BY_IDENTIFIER = {architecture.identifier: architecture for architecture in ARCHITECTURES.values()}
