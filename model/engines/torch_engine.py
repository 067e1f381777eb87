"""The engine on PyTorch, for CUDA and CPU. Knows nothing of files or of HTTP."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.resnet import BasicBlock

from model.engines.base import Array, EngineError, Region
from model.engines.head import Head
from model.network import FCN, network_from_state, normalise
from model.weights import Weights


class TorchEngine:
    """Float32 PyTorch, batch norms folded into their convolutions, channels last."""

    def __init__(self, weights: Weights, *, device: str = "auto", threads: int = 0) -> None:
        """`device`: "auto", "cpu", "cuda" or "cuda:N"; `threads`: 0 leaves PyTorch's own number.

        Raises EngineError for a device that is not there, NetworkError for tensors that do not fit.
        """
        chosen = choose_device(device)
        if threads:
            torch.set_num_threads(threads)
        state = {name: torch.from_numpy(np.array(a)) for name, a in weights.tensors.items()}
        self._start(network_from_state(state, source="weights"), weights, chosen)

    def _start(self, network: FCN, weights: Weights, device: torch.device) -> None:
        if device.type == "cuda":
            # TensorFloat-32 has 10 bits of mantissa: too few for masks that equal float32's.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        self._device = device
        self._mean, self._std = weights.metadata.mean, weights.metadata.std
        self._network = fold_batch_norms(network).to(device, memory_format=torch.channels_last)
        up = self._network.transpose_conv
        assert up.bias is not None
        self._head = Head(up.weight.detach(), up.bias.detach())
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else (
            f"cpu, {torch.get_num_threads()} threads"
        )
        self.device = str(device)
        self.description = f"torch {torch.__version__} on {where}"

    @torch.inference_mode()
    def segment(self, canvases: Array, regions: Sequence[Region]) -> list[Array]:
        """See `Engine.segment`."""
        masks = []
        for start, images in self._forward_passes(canvases):
            coarse = self._network.coarse_logits(normalise(images, self._mean, self._std))
            for logits, region in zip(coarse, regions[start:], strict=False):
                masks.append(self._head(logits, region).cpu().numpy())
        return masks

    def _forward_passes(self, canvases: Array) -> list[tuple[int, Tensor]]:
        """The batch as one forward pass on a GPU, as one pass per image on the CPU.

        On the CPU oneDNN sums in an order that depends on the batch size, so an image's logits would
        depend on its company (by 1e-5, for canvases under 224 x 224), and a batch is no faster: 43
        ms an image at 320 x 480 either way on two cores.
        """
        images = torch.from_numpy(canvases)
        if self._device.type == "cuda":
            return [(0, images.to(self._device, non_blocking=True))]
        return list(enumerate(images.split(1)))


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first GPU, or else the CPU. Raises EngineError."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise EngineError(f"device {name!r} is not supported: choose auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not available:
            raise EngineError(f"device {name!r} was asked for, but PyTorch finds no CUDA GPU here")
        if (device.index or 0) >= torch.cuda.device_count():
            raise EngineError(f"device {name!r} is not there: {torch.cuda.device_count()} GPUs found")
        return torch.device("cuda", device.index or 0)
    return device


def fold_batch_norms(network: FCN) -> FCN:
    """A copy in evaluation mode whose convolutions contain the batch norms that followed them."""
    folded = copy.deepcopy(network).eval()
    backbone = folded.backbone
    _fold(backbone, "conv1", "bn1")
    for block in backbone.modules():
        if isinstance(block, BasicBlock):
            _fold(block, "conv1", "bn1")
            _fold(block, "conv2", "bn2")
            if block.downsample is not None:
                _fold(block.downsample, "0", "1")
    return folded


def _fold(parent: nn.Module, convolution: str, batch_norm: str) -> None:
    conv, norm = parent.get_submodule(convolution), parent.get_submodule(batch_norm)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    setattr(parent, convolution, fuse_conv_bn_eval(conv, norm))
    setattr(parent, batch_norm, nn.Identity())
