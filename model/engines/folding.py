"""The network for an engine: convolutions with bias, into which batch norms are folded.

Works on the arrays of a weights file; knows nothing of torch, nor of how a convolution is computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.architectures import SKIP_CHANNELS
from model.errors import WeightsError
from model.weights import Metadata, Weights

Floats = NDArray[np.float32]

BLOCKS_PER_LAYER = 2

BATCH_NORM_EPSILON = 1e-5
"""PyTorch's default, which torchvision's ResNet-18 keeps."""


@dataclass(frozen=True, slots=True)
class Convolution:
    """`kernel` (out, in, k, k) and `bias` (out,); its padding is k // 2."""

    kernel: Floats
    bias: Floats
    stride: int


@dataclass(frozen=True, slots=True)
class Block:
    """ResNet's basic block: relu(second(relu(first(x))) + shortcut(x)).

    Without a shortcut, x itself is added.
    """

    first: Convolution
    second: Convolution
    shortcut: Convolution | None


@dataclass(frozen=True, slots=True)
class Skip:
    """Doubles the coarse logits' resolution and adds `classifier` of the output of `block`.

    `doubling` (C, C, 4, 4) is the kernel of a transposed convolution with stride 2 and padding 1,
    without bias.
    """

    block: int
    classifier: Convolution
    doubling: Floats


@dataclass(frozen=True, slots=True)
class FoldedNetwork:
    """FCN-ResNet18 in the order of computation.

    `stem`, relu, 3 x 3 maximum with stride 2, eight blocks, `classifier`, `skips`; then the
    transposed convolution of `upsampling_kernel` (C, C, 2 stride, 2 stride) and `upsampling_bias`.
    """

    stem: Convolution
    blocks: tuple[Block, ...]
    classifier: Convolution
    upsampling_kernel: Floats
    upsampling_bias: Floats
    skips: tuple[Skip, ...] = ()

    @property
    def stride(self) -> int:
        """The distance between two coarse logits in pixels."""
        stride: int = self.upsampling_kernel.shape[-1] // 2
        return stride


def fold(weights: Weights) -> FoldedNetwork:
    """Fold the batch norms of a weights file.

    Raises WeightsError that names every tensor that is missing, unknown or of another shape.
    """
    classes, stride = len(weights.metadata.classes), weights.metadata.network.stride
    reader = _TensorReader(weights.tensors)
    network = FoldedNetwork(
        stem=reader.read_convolution("backbone.conv1", "backbone.bn1", (64, 3, 7, 7), 2),
        blocks=tuple(_read_blocks(reader)),
        classifier=reader.read_classifier("final_conv", classes, 512),
        skips=tuple(
            Skip(
                block=BLOCKS_PER_LAYER * int(name.removeprefix("layer")) - 1,
                classifier=reader.read_classifier(
                    f"skip_convs.{name}", classes, SKIP_CHANNELS[name]
                ),
                doubling=reader.read(f"doublings.{name}.weight", (classes, classes, 4, 4)),
            )
            for name in weights.metadata.network.skips
        ),
        upsampling_kernel=reader.read(
            "transpose_conv.weight", (classes, classes, 2 * stride, 2 * stride)
        ),
        upsampling_bias=reader.read("transpose_conv.bias", (classes,)),
    )
    reader.check(weights.source)
    return network


def _read_blocks(reader: "_TensorReader") -> Iterator[Block]:
    in_channels = 64
    for layer, channels in enumerate((64, 128, 256, 512), start=1):
        for position in range(BLOCKS_PER_LAYER):
            stride = 2 if layer > 1 and position == 0 else 1
            name = f"backbone.layer{layer}.{position}"
            first = reader.read_convolution(
                f"{name}.conv1", f"{name}.bn1", (channels, in_channels, 3, 3), stride
            )
            second = reader.read_convolution(
                f"{name}.conv2", f"{name}.bn2", (channels, channels, 3, 3)
            )
            shortcut = None
            if stride == 2:
                down = f"{name}.downsample"
                shortcut = reader.read_convolution(
                    f"{down}.0", f"{down}.1", (channels, in_channels, 1, 1), stride
                )
            yield Block(first, second, shortcut)
            in_channels = channels


def normalise_levels(metadata: Metadata) -> Floats:
    """Normalise each of the 256 levels of each channel: shape (3, 256)."""
    levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    mean, std = np.array(metadata.mean, np.float32), np.array(metadata.std, np.float32)
    normalised: Floats = ((levels - mean) / std).T.copy()
    return normalised


class _TensorReader:
    """Reads tensors by name and collects their problems."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.tensors = tensors
        self._used: set[str] = set()
        self._problems: list[str] = []

    def read(self, name: str, shape: tuple[int, ...]) -> Floats:
        self._used.add(name)
        found = self.tensors.get(name)
        if found is None:
            self._problems.append(f"{name} is missing")
        elif found.shape != shape:
            self._problems.append(f"{name} has shape {found.shape}, expected {shape}")
        else:
            return found.astype(np.float32)
        return np.ones(shape, np.float32)

    def read_convolution(
        self, name: str, norm: str, shape: tuple[int, int, int, int], stride: int = 1
    ) -> Convolution:
        """Read a convolution without bias and the batch norm that follows, as one convolution."""
        kernel = self.read(f"{name}.weight", shape).astype(np.float64)
        scale, shift, mean, variance = (
            self.read(f"{norm}.{part}", shape[:1]).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        self._used.add(f"{norm}.num_batches_tracked")
        factor = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
        return Convolution(
            kernel=(kernel * factor[:, None, None, None]).astype(np.float32),
            bias=(shift - mean * factor).astype(np.float32),
            stride=stride,
        )

    def read_classifier(self, name: str, classes: int, channels: int) -> Convolution:
        """Read a 1 x 1 convolution with a bias."""
        kernel = self.read(f"{name}.weight", (classes, channels, 1, 1))
        return Convolution(kernel, self.read(f"{name}.bias", (classes,)), stride=1)

    def check(self, source: str) -> None:
        unknown = sorted(set(self.tensors) - self._used)
        problems = self._problems + [f"{name} is unknown" for name in unknown]
        if problems:
            raise WeightsError(f"{source}: {'; '.join(problems)}")
