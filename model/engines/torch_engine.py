"""The engine on PyTorch for the CPU. Knows nothing of files or HTTP; needs no torchvision."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from model.engines import folding
from model.engines.base import Array, Region, describe_threads
from model.engines.torch_head import TorchHead
from model.engines.torch_network import TorchNetwork
from model.errors import EngineError
from model.weights import Weights

CPU = torch.device("cpu")


class TorchEngine:
    """Float32 PyTorch, batch norms folded into their convolutions, channels last."""

    callers_at_once = 1
    images_per_call = 1
    device = "cpu"

    def __init__(self, weights: Weights, *, threads: int = 0) -> None:
        """`threads`: 0 keeps PyTorch's own number. Raises WeightsError as `fold`."""
        if threads:
            torch.set_num_threads(threads)
        running = describe_threads(torch.get_num_threads())
        self.description = f"torch {torch.__version__} on cpu, {running}"
        network = folding.fold(weights)
        self._network = TorchNetwork(network, weights.metadata, CPU)
        self._head = TorchHead(network, CPU)

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
        # One image after another: oneDNN's order of sums depends on the batch size, so an image's
        # logits would depend on the others (by 1e-5, for canvases under 224 x 224). A batch would
        # not be faster: an image of 320 x 480 takes 43 ms either way on two cores.
        images = torch.from_numpy(np.stack(canvases))[:, None]
        logits = [coarse for image in images for coarse in self._network.coarse_logits(image)]
        return [
            head(coarse, region).numpy() for coarse, region in zip(logits, regions, strict=True)
        ]


def normalise(
    images: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor
) -> Tensor:
    """Turn images (N, H, W, 3) uint8 RGB into the input (N, 3, H, W) float32, channels last.

    RGB / 255, then minus `mean` and divided by `std`, each per channel.
    """
    scaled = images.permute(0, 3, 1, 2).float().div_(255)
    per_channel = (1, 3, 1, 1)
    scaled.sub_(torch.as_tensor(mean, device=images.device).view(per_channel))
    return scaled.div_(torch.as_tensor(std, device=images.device).view(per_channel))


def use_exact_float32() -> None:
    """Turn TensorFloat-32 off: its 10 bits of mantissa are too few for exact masks."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def count_gpus() -> int:
    """Return the number of GPUs that PyTorch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_device(name: str) -> torch.device:
    """Choose the device. "auto" is the first GPU, or else the CPU. Raises EngineError."""
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
