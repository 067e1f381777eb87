"""The fully convolutional network: ResNet-18, 1x1 convolutions, transposed convolutions.

Turns normalised images into logits. Knows nothing of files, of masks or of HTTP.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

from model.architectures import ARCHITECTURES, SKIP_CHANNELS, ArchitectureName

BACKBONE_CHANNELS = 512


# torchvision's names of the eight children that are left of ResNet-18, in order. In the notebook's
# nn.Sequential they are called "0" to "7": the average pooling and the classifier are not there.
BACKBONE_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def bilinear_kernel(in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
    """Build the kernel of a transposed convolution that interpolates each channel bilinearly.

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
    """Return a transposed convolution that enlarges (N, channels, h, w) by `factor`, bilinearly.

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
    """FCN on ResNet-18: images (N, 3, H, W), normalised, to logits (N, num_classes, H, W).

    H and W are multiples of 32; other sizes give logits of the next multiple, from fcn32s only.
    """

    def __init__(self, num_classes: int = 21, architecture: ArchitectureName = "fcn32s") -> None:
        """The skips' classifiers start at zero (Long, Shelhamer and Darrell, 2015, section 4.2)."""
        super().__init__()
        self.architecture = ARCHITECTURES[architecture]
        resnet = resnet18(weights=None)
        self.backbone = nn.Sequential()
        for name in BACKBONE_CHILDREN:
            self.backbone.add_module(name, resnet.get_submodule(name))
        self.final_conv = nn.Conv2d(BACKBONE_CHANNELS, num_classes, kernel_size=1)
        self.skip_convs, self.doublings = nn.ModuleDict(), nn.ModuleDict()
        for name in self.architecture.skips:
            skip = nn.Conv2d(SKIP_CHANNELS[name], num_classes, kernel_size=1)
            nn.init.zeros_(skip.weight)
            nn.init.zeros_(skip.bias)  # type: ignore[arg-type]  # it has one
            self.skip_convs[name] = skip
            self.doublings[name] = bilinear_upsampling(num_classes, 2)
        stride = self.architecture.stride
        self.transpose_conv = nn.ConvTranspose2d(
            num_classes, num_classes, kernel_size=2 * stride, padding=stride // 2, stride=stride
        )
        with torch.no_grad():
            self.transpose_conv.weight.copy_(bilinear_kernel(num_classes, num_classes, 2 * stride))

    @property
    def num_classes(self) -> int:
        return self.final_conv.out_channels

    def coarse_logits(self, images: Tensor, *, first: int = 0) -> Tensor:
        """Turn images (N, 3, H, W) into logits of every `stride`th pixel, (N, num_classes, h, w).

        With `first`, `images` are features: the output of the backbone's first `first` children.
        No skip may start from a child before the last of these.
        """
        features, x = {}, images
        for number, name in enumerate(BACKBONE_CHILDREN):
            if number >= first:
                x = self.backbone[number](x)
            if name in self.architecture.skips:
                features[name] = x
        coarse: Tensor = self.final_conv(x)
        for name in self.architecture.skips:
            coarse = self.doublings[name](coarse) + self.skip_convs[name](features[name])
        return coarse

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.transpose_conv(self.coarse_logits(images))
        return logits


def upsample_bilinear(coarse: Tensor, factor: int) -> Tensor:
    """Compute what `transpose_conv` does with an exactly bilinear kernel and no bias, but faster.

    (N, C, h, w) to (N, C, factor * h, factor * w). The transposed convolution fades to zero at the
    border, so a frame of zeros takes part in the interpolation; plain `F.interpolate` would clamp
    instead.
    """
    framed = F.pad(coarse, (1, 1, 1, 1))
    enlarged = F.interpolate(framed, scale_factor=factor, mode="bilinear", align_corners=False)
    return enlarged[..., factor:-factor, factor:-factor]
