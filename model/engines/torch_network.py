"""The network up to its coarse logits with PyTorch, in one precision. Knows nothing of masks."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.engines import folding
from model.engines.folding import Convolution, FoldedNetwork
from model.engines.out_of_memory import is_out_of_memory
from model.weights import Metadata

log = logging.getLogger(__name__)

MIDDLE = 128
"""The value that is subtracted from RGB levels, which makes them exact in 16 bits."""


class TorchNetwork:
    """The network with batch norms and normalisation folded into its convolutions; channels last.

    The classifiers and later layers, a thousandth of the work, compute in float32.
    """

    def __init__(
        self,
        network: FoldedNetwork,
        metadata: Metadata,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._device, self._dtype = device, dtype
        self._stem = self._place(fold_normalisation(network.stem, metadata), dtype)
        self._blocks = [
            (
                self._place(block.first, dtype),
                self._place(block.second, dtype),
                self._place(block.shortcut, dtype) if block.shortcut else None,
            )
            for block in network.blocks
        ]
        self._classifier = self._place(network.classifier)
        self._skips = {
            skip.block: (self._place(skip.classifier), self._convert(skip.doubling))
            for skip in network.skips
        }
        self._unfused: set[_Convolution] = set()
        self._is_fused = can_fuse(device, dtype)
        if self._is_fused:
            self._try_out()

    @torch.inference_mode()
    def _try_out(self) -> None:
        """Find out now which fused kernels cuDNN lacks. Raises the errors of the unfused ones."""
        self.coarse_logits(torch.zeros(1, 64, 64, 3, dtype=torch.uint8, device=self._device))

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Turn images (N, H, W, 3) uint8 into float32 logits of every `stride`th pixel."""
        x = self._convolve_relu(self._center(images), self._stem)
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        finer = []
        for number, (first, second, shortcut) in enumerate(self._blocks):
            identity = shortcut(x) if shortcut else x
            x = self._convolve_relu(self._convolve_relu(x, first), second, added=identity)
            if number in self._skips:
                classifier, doubling = self._skips[number]
                finer.append((classifier(x.float()), doubling))
        coarse = self._classifier(x.float())
        for logits, doubling in reversed(finer):
            coarse = logits + F.conv_transpose2d(coarse, doubling, stride=2, padding=1)
        return coarse

    def _center(self, images: Tensor) -> Tensor:
        """Return RGB minus MIDDLE and a channel of ones, (N, 4, H, W) in channels-last memory."""
        n, height, width, _ = images.shape
        centered = torch.empty(n, height, width, 4, dtype=self._dtype, device=images.device)
        torch.sub(images, float(MIDDLE), out=centered[..., :3])
        centered[..., 3] = 1
        return centered.permute(0, 3, 1, 2)

    def _convolve_relu(self, x: Tensor, by: "_Convolution", added: Tensor | None = None) -> Tensor:
        if self._is_fused and by not in self._unfused:
            try:
                return by.fuse_relu(x, added)
            except RuntimeError as error:
                # Full memory or a failed recording do not say that the kernel is missing.
                is_recorded = x.is_cuda and torch.cuda.is_current_stream_capturing()
                if is_out_of_memory(error) or is_recorded:
                    raise
                # Not every cuDNN has every one of them for every GPU and size.
                self._unfused.add(by)
                log.warning("convolution, sum and ReLU are kernels of their own: %s", error)
        y = by(x)
        return (y if added is None else y.add_(added)).relu_()

    def _place(
        self, convolution: Convolution, dtype: torch.dtype = torch.float32
    ) -> "_Convolution":
        kernel = self._convert(convolution.kernel).to(dtype)
        return _Convolution(
            kernel.contiguous(memory_format=torch.channels_last),
            self._convert(convolution.bias).to(dtype),
            convolution.stride,
        )

    def _convert(self, array: folding.Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


@dataclass(frozen=True, slots=True, eq=False)  # the same only if it is the same object
class _Convolution:
    kernel: Tensor
    bias: Tensor
    stride: int

    def __call__(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, self.bias, stride=self.stride, padding=self.padding)

    def fuse_relu(self, x: Tensor, added: Tensor | None) -> Tensor:
        stride, padding, once = [self.stride] * 2, [self.padding] * 2, [1, 1]
        if added is None:
            return torch.cudnn_convolution_relu(x, self.kernel, self.bias, stride, padding, once, 1)
        return torch.cudnn_convolution_add_relu(
            x, self.kernel, added, 1, self.bias, stride, padding, once, 1
        )

    @property
    def padding(self) -> int:
        return self.kernel.shape[-1] // 2


def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether PyTorch may have cuDNN's convolution, sum and ReLU in one kernel: on GPUs."""
    return device.type == "cuda" and dtype != torch.float32


def fold_normalisation(stem: Convolution, metadata: Metadata) -> Convolution:
    """Change the stem's input from normalised RGB to levels minus MIDDLE and a channel of ones.

    The weights of the ones are what normalisation adds to a level. Padding is 0 in all channels,
    so a border pixel has the same sum as with padding of the normalised image.
    """
    std = np.array(metadata.std, np.float64)[:, None, None]
    mean = np.array(metadata.mean, np.float64)[:, None, None]
    kernel = stem.kernel.astype(np.float64) / std
    ones = (kernel * (MIDDLE / 255 - mean)).sum(axis=1, keepdims=True)
    folded = np.concatenate([kernel / 255, ones], axis=1).astype(np.float32)
    return Convolution(folded, stem.bias, stem.stride)
