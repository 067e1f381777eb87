"""The engine on PyTorch, for CUDA and CPU. Knows nothing of files or HTTP; needs no torchvision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.engines import folding
from model.engines.base import Array, Region
from model.engines.torch_head import TorchHead
from model.errors import EngineError
from model.weights import Weights

# Of small images; a batch of large ones is limited by its pixels.
IMAGES_PER_CALL_CUDA = 256


class TorchEngine:
    """Float32 PyTorch, batch norms folded into their convolutions, channels last."""

    callers_at_once = 1

    def __init__(self, weights: Weights, *, device: str = "auto", threads: int = 0) -> None:
        """`device`: "auto", "cpu", "cuda" or "cuda:N"; `threads`: 0 leaves PyTorch's own number.

        Raises EngineError for a device that is not there, WeightsError for tensors that do not fit.
        """
        self._device = choose_device(device)
        if threads:
            torch.set_num_threads(threads)
        self.device = str(self._device)
        self.images_per_call = IMAGES_PER_CALL_CUDA if self._device.type == "cuda" else 1
        where = f"cpu, {torch.get_num_threads()} threads"
        if self._device.type == "cuda":
            use_exact_float32()
            where = f"{self.device}, {torch.cuda.get_device_name(self._device)}"
        self.description = f"torch {torch.__version__} on {where}"

        network = folding.fold(weights)
        self._mean, self._std = weights.metadata.mean, weights.metadata.std
        self._stem = self._create_convolution(network.stem)
        self._blocks = [
            (
                self._create_convolution(block.first),
                self._create_convolution(block.second),
                self._create_convolution(block.shortcut) if block.shortcut else None,
            )
            for block in network.blocks
        ]
        self._classifier = self._create_convolution(network.classifier)
        self._skips = {
            skip.block: (self._create_convolution(skip.classifier), self._convert(skip.doubling))
            for skip in network.skips
        }
        self._head = TorchHead(network, self._device)

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """See `Engine.segment`."""
        return self._run(canvases, regions, self._head)

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """See `Engine.measure_confidence`."""
        return self._run(canvases, regions, self._head.measure_confidence)

    @torch.inference_mode()
    def _run(
        self,
        canvases: Sequence[Array],
        regions: Sequence[Region],
        head: Callable[[Tensor, Region], Tensor],
    ) -> list[Array]:
        images = torch.from_numpy(np.stack(canvases))
        # One forward pass for the whole batch on a GPU, one for each image on the CPU: there oneDNN
        # sums in an order that depends on the batch size, so an image's logits would depend on its
        # company (by 1e-5, for canvases under 224 x 224); and a batch is no faster: 43 ms an image
        # at 320 x 480 either way on two cores.
        passes = [images.to(self._device)] if self._device.type == "cuda" else images[:, None]
        logits = [coarse for batch in passes for coarse in self.coarse_logits(batch)]
        return [
            head(coarse, region).cpu().numpy()
            for coarse, region in zip(logits, regions, strict=True)
        ]

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Images (N, H, W, 3) uint8 to logits of every `stride`th pixel, (N, C, h, w)."""
        x = self._stem(normalise(images, self._mean, self._std)).relu_()
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        finer = []
        for number, (first, second, shortcut) in enumerate(self._blocks):
            identity = shortcut(x) if shortcut else x
            x = second(first(x).relu_()).add_(identity).relu_()
            if number in self._skips:
                classifier, doubling = self._skips[number]
                finer.append((classifier(x), doubling))
        coarse = self._classifier(x)
        for logits, doubling in reversed(finer):
            coarse = logits + F.conv_transpose2d(coarse, doubling, stride=2, padding=1)
        return coarse

    def _create_convolution(self, convolution: folding.Convolution) -> "_Convolution":
        kernel = self._convert(convolution.kernel).contiguous(memory_format=torch.channels_last)
        return _Convolution(kernel, self._convert(convolution.bias), convolution.stride)

    def _convert(self, array: folding.Floats) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


@dataclass(frozen=True, slots=True)
class _Convolution:
    kernel: Tensor
    bias: Tensor
    stride: int

    def __call__(self, x: Tensor) -> Tensor:
        padding = self.kernel.shape[-1] // 2
        return F.conv2d(x, self.kernel, self.bias, stride=self.stride, padding=padding)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (N, H, W, 3) uint8 RGB to the network's input, (N, 3, H, W) float32, channels last.

    RGB / 255, then minus `mean` and divided by `std`, each per channel.
    """
    scaled = images.permute(0, 3, 1, 2).float().div_(255)
    per_channel = (1, 3, 1, 1)
    scaled.sub_(torch.tensor(mean, device=images.device).view(per_channel))
    return scaled.div_(torch.tensor(std, device=images.device).view(per_channel))


def use_exact_float32() -> None:
    """No TensorFloat-32: 10 bits of mantissa are too few for masks that equal float32's."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, or else the CPU. Raises EngineError."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise EngineError(f"device {name!r} is not supported: choose auto, cpu, cuda or cuda:N")
    if not available:
        raise EngineError(f"device {name!r} is not available: PyTorch finds no CUDA GPU here")
    if (device.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"device {name!r} is not there: {torch.cuda.device_count()} GPUs found")
    return torch.device("cuda", device.index or 0)
