"""The fully convolutional network: ResNet-18, a 1x1 convolution, a transposed convolution.

Turns normalised images into logits. Knows nothing of files of photos, of masks on disk or of HTTP.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights, resnet18
from torchvision.models.resnet import BasicBlock

from model.errors import NetworkError

STRIDE = 32
"""The backbone halves its input five times."""

BACKBONE_CHANNELS = 512

# torchvision's names of the eight children that are left of ResNet-18, in order. In the notebook's
# nn.Sequential they are called "0" to "7": the average pooling and the classifier are not there.
BACKBONE_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def bilinear_kernel(in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
    """The kernel of a transposed convolution that interpolates bilinearly, channel c to channel c.

    Shape (in_channels, out_channels, kernel_size, kernel_size), float32. Its value at distance d
    from the centre is 1 - |d| / factor in each direction, with factor = (kernel_size + 1) // 2
    and centre = factor - 1 for an odd size, factor - 0.5 for an even one (Long, Shelhamer and
    Darrell, "Fully Convolutional Networks for Semantic Segmentation", 2015, section 3.3).
    """
    factor = (kernel_size + 1) // 2
    centre = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    ramp = 1 - (torch.arange(kernel_size, dtype=torch.float64) - centre).abs() / factor
    kernel = torch.zeros(in_channels, out_channels, kernel_size, kernel_size)
    shared = range(min(in_channels, out_channels))
    kernel[shared, shared] = torch.outer(ramp, ramp).float()
    return kernel


def bilinear_upsampling(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A transposed convolution that enlarges (N, channels, h, w) by `factor`, bilinearly.

    Kernel size 2 * factor - factor % 2, padding ceil((factor - 1) / 2): Caffe's rule for its
    bilinear filler. `bilinear_upsampling(3, 2)` is the notebook's doubling of a photo: kernel 4,
    stride 2, padding 1. At the border it interpolates towards zero; inside it equals
    `F.interpolate(mode="bilinear", align_corners=False)`.
    """
    kernel_size = 2 * factor - factor % 2
    padding = math.ceil((factor - 1) / 2)
    upsampling = nn.ConvTranspose2d(
        channels, channels, kernel_size, stride=factor, padding=padding, bias=False
    )
    with torch.no_grad():
        upsampling.weight.copy_(bilinear_kernel(channels, channels, kernel_size))
    return upsampling


class FCN(nn.Module):
    """FCN-32s on ResNet-18: images (N, 3, H, W), normalised, to logits (N, num_classes, H, W).

    H and W are multiples of 32; other sizes give logits of the next multiple.
    """

    def __init__(self, num_classes: int = 21) -> None:
        super().__init__()
        resnet = resnet18(weights=None)
        self.backbone = nn.Sequential()
        for name in BACKBONE_CHILDREN:
            self.backbone.add_module(name, resnet.get_submodule(name))
        self.final_conv = nn.Conv2d(BACKBONE_CHANNELS, num_classes, kernel_size=1)
        self.transpose_conv = nn.ConvTranspose2d(
            num_classes, num_classes, kernel_size=2 * STRIDE, padding=STRIDE // 2, stride=STRIDE
        )
        with torch.no_grad():
            self.transpose_conv.weight.copy_(bilinear_kernel(num_classes, num_classes, 2 * STRIDE))

    @property
    def num_classes(self) -> int:
        return self.final_conv.out_channels

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits of every 32nd pixel, (N, num_classes, H / 32, W / 32)."""
        coarse: Tensor = self.final_conv(self.backbone(images))
        return coarse

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.transpose_conv(self.coarse_logits(images))
        return logits


def upsample_bilinear(coarse: Tensor, factor: int = STRIDE) -> Tensor:
    """What `transpose_conv` does while its kernel is exactly bilinear and its bias zero, faster.

    (N, C, h, w) to (N, C, factor * h, factor * w). The transposed convolution fades to zero at the
    border, so a frame of zeros takes part in the interpolation; plain `F.interpolate` would clamp
    instead.
    """
    framed = F.pad(coarse, (1, 1, 1, 1))
    enlarged = F.interpolate(framed, scale_factor=factor, mode="bilinear", align_corners=False)
    return enlarged[..., factor:-factor, factor:-factor]


def tile_matrix(kernel: Tensor) -> Tensor:
    """The transposed convolution as a product over tiles (see `engines.tiles`), to be trained.

    Kernel (C, C, 64, 64) to (4 C, C * 1024). Differs from `engines.tiles.tile_matrix` in that its
    rows have the channel first and its four cells within, and in that gradients pass.
    """
    classes = kernel.shape[0]
    # Pixel dy of a tile lies at kernel row 32 + dy of the upper cell and dy of the lower one.
    halves = kernel.reshape(classes, -1, 2, STRIDE, 2, STRIDE).flip(2, 4)
    return halves.permute(0, 2, 4, 1, 3, 5).reshape(4 * classes, -1)


def bilinear_tile() -> Tensor:
    """The shares of a tile's four cells in its pixels, (4, 1024), for the bilinear kernel."""
    return tile_matrix(bilinear_kernel(1, 1, 2 * STRIDE))


def tile_cells(coarse: Tensor) -> Tensor:
    """The four cells around each tile of coarse logits (N, C, h, w): (N, tiles, C, 4).

    There are (h + 1) * (w + 1) tiles; around the coarse logits lies a frame of zeros.
    """
    framed = F.pad(coarse.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    upper, lower = framed[:, :-1], framed[:, 1:]
    corners = [upper[:, :, :-1], upper[:, :, 1:], lower[:, :, :-1], lower[:, :, 1:]]
    return torch.stack(corners, dim=-1).flatten(1, 2)


def tiled(target: Tensor, *, outside: int) -> Tensor:
    """A target (N, 32 h, 32 w) in tiles, (N, tiles, 1024): the same ones as those of `tile_cells`.

    Tiles at the border are half outside of the picture.
    """
    half = STRIDE // 2
    framed = F.pad(target, (half, half, half, half), value=outside)
    number, height, width = framed.shape
    rows = framed.view(number, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    return rows.transpose(2, 3).reshape(number, -1, STRIDE * STRIDE)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What `load_backbone` found: the names of tensors, in the network's own order."""

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
        state = weights.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise NetworkError(
            f"cannot fetch {weights} ({error}). Without a network, give a local file with "
            "--backbone FILE (a ResNet-18 state dict, complete or not), or train from a random "
            "start with --backbone none"
        ) from error
    return load_backbone(network, state, source=f"torchvision {weights}")


def load_backbone(network: FCN, state: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Copy what `state` (torchvision's ResNet-18 names) has into the backbone and report the rest.

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
        found = _some(state)
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


def zero_new_residuals(network: FCN, loaded: Iterable[str]) -> None:
    """Make the residual blocks whose last batch norm was not loaded start as the identity.

    `loaded` has the backbone's names of tensors.
    """
    present = set(loaded)
    for name, module in network.backbone.named_modules():
        if isinstance(module, BasicBlock) and f"{name}.bn2.weight" not in present:
            nn.init.zeros_(module.bn2.weight)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """A state dict from a `.safetensors` file or one that `torch.save` wrote.

    Pickled code is never run: a file that holds a whole module raises NetworkError.
    """
    if not path.is_file():
        raise NetworkError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise NetworkError(f"{path}: not a safetensors file ({error})") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own for a wrong file
        raise NetworkError(
            f"{path}: not a state dict ({type(error).__name__}). Save it with "
            "torch.save(net.state_dict(), path); a pickled module is never loaded"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise NetworkError(f"{path}: holds {type(state).__name__}, not a state dict of tensors")
    return dict(state)


def convert_notebook_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the notebook's `nn.Sequential` to those of `FCN`.

    The notebook's "0.weight" is `backbone.conv1.weight`, "4." is `backbone.layer1.`, and so on;
    `final_conv` and `transpose_conv` keep their names. Prefixes that DataParallel ("module.") and
    torch.compile ("_orig_mod.") put in front are dropped; names of `FCN` itself pass unchanged.
    """
    return {_converted_name(name): tensor for name, tensor in state.items()}


def _converted_name(name: str) -> str:
    for prefix in ("module.", "_orig_mod."):
        name = name.removeprefix(prefix)
    position, _, rest = name.partition(".")
    if position.isdecimal() and int(position) < len(BACKBONE_CHILDREN):
        return f"backbone.{BACKBONE_CHILDREN[int(position)]}.{rest}"
    return name


def network_from_state(state: Mapping[str, Tensor], *, source: str) -> FCN:
    """An FCN in evaluation mode with exactly the tensors of `state`; its classes are counted there.

    Raises NetworkError that names every tensor that is missing, unknown or of another shape.
    """
    head = state.get("final_conv.weight")
    if head is None or head.ndim != 4:
        raise NetworkError(
            f"{source}: no final_conv.weight of four dimensions; found {_some(state)}"
        )
    network = FCN(num_classes=head.shape[0])
    expected = network.state_dict()
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in expected]
    problems += [
        f"{name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        raise NetworkError(f"{source}: {'; '.join(problems)}")
    network.load_state_dict(dict(state))
    return network.eval()


def network_from_arrays(tensors: Mapping[str, NDArray[Any]], *, source: str) -> FCN:
    """`network_from_state` for the arrays of a weights file."""
    state = {name: torch.from_numpy(np.array(array)) for name, array in tensors.items()}
    return network_from_state(state, source=source)


def tensors_of(network: FCN, *, half: bool = False) -> dict[str, NDArray[Any]]:
    """The network's state dict as arrays; `half` rounds the convolutions' kernels to float16.

    The transposed convolution keeps float32: its bilinear values need 12 bits, float16 has 11.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous().numpy()
        for name, tensor in network.state_dict().items()
    }
    if not half:
        return tensors
    return {
        name: array.astype(np.float16)
        if array.ndim == 4 and not name.startswith("transpose_conv")
        else array
        for name, array in tensors.items()
    }


def _some(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing"
