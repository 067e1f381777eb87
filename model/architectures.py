"""The architectures: FCN-32s, FCN-16s and FCN-8s of Long, Shelhamer and Darrell (2015).

They differ in how fine their coarse logits are. Knows nothing of torch.
"""

from dataclasses import dataclass
from typing import Literal

ArchitectureName = Literal["fcn32s", "fcn16s", "fcn8s"]

BACKBONE_STRIDE = 32
"""The backbone halves its input five times."""

SKIP_CHANNELS = {"layer3": 256, "layer2": 128}
"""The layers of the backbone that skips start from, and the channels of their features."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the paper calls it, and what follows from that."""

    name: ArchitectureName
    identifier: str
    """What a weights file says."""
    skips: tuple[str, ...]
    """The layers of the backbone that are classified, too, the coarsest first."""

    @property
    def stride(self) -> int:
        """The pixels from one coarse logit to the next: each skip doubles the coarse logits."""
        return BACKBONE_STRIDE >> len(self.skips)


ARCHITECTURES: dict[ArchitectureName, Architecture] = {
    # The oldest identifier names no stride: files that say it are older than the others.
    "fcn32s": Architecture("fcn32s", "fcn_resnet18", ()),
    "fcn16s": Architecture("fcn16s", "fcn16s_resnet18", ("layer3",)),
    "fcn8s": Architecture("fcn8s", "fcn8s_resnet18", ("layer3", "layer2")),
}

BY_IDENTIFIER = {architecture.identifier: architecture for architecture in ARCHITECTURES.values()}
