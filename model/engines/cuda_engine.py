"""The engine for GPUs: half precision, CUDA graphs, and copies that overlap with kernels.

It has not run on a GPU yet. The same class runs on the CPU, without graphs and streams, so that
its arithmetic is tested everywhere; `TorchEngine` is faster there. Knows nothing of files or HTTP.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from model.engines import folding
from model.engines.base import Array, Region
from model.engines.batch_limit import BatchLimit
from model.engines.cuda_graphs import GraphedFunction
from model.engines.folding import FoldedNetwork
from model.engines.mask_layout import MaskLayout
from model.engines.torch_engine import choose_device, use_exact_float32
from model.engines.torch_head import TorchHead
from model.engines.torch_network import TorchNetwork
from model.engines.transfer import BATCH_SIZES, CpuTransfer, CudaTransfer, Transfer
from model.errors import EngineError
from model.weights import Weights

log = logging.getLogger(__name__)

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

CALLERS_AT_ONCE = 3
"""One batch is copied to the GPU, one is computed, and one is copied back."""

TRITONS_CAPABILITY = (8, 0)
"""Triton does not use the tensor cores of older GPUs."""


class Head(Protocol):
    """Turns coarse logits into masks or confidences: `TritonHead` or `TorchHead`."""

    def segment_canvases(
        self, coarse: Tensor, masks: Tensor, *, confidence: bool = False
    ) -> None: ...

    def segment_scaled(
        self, coarse: Tensor, region: Region, mask: Tensor, *, confidence: bool = False
    ) -> None: ...


class CudaEngine:
    """The folded network in PyTorch, and a head in Triton if that is installed."""

    images_per_call = BATCH_SIZES[-1]

    def __init__(
        self, weights: Weights, *, device: str = "cuda", precision: str = "float16"
    ) -> None:
        """Raises EngineError for a device that does not exist, and WeightsError as `fold`."""
        self._device = choose_device(device)
        self.device = str(self._device)
        use_exact_float32()
        network, dtype = folding.fold(weights), DTYPES[precision]
        run_network = TorchNetwork(network, weights.metadata, self._device, dtype).coarse_logits
        self._limit = BatchLimit()
        self._free_memory: Callable[[], bool] = lambda: False
        self._transfer: Transfer = CpuTransfer()
        self._head = create_head(network, self._device, dtype)
        self.callers_at_once, where = 1, "cpu"
        self._run_network: Callable[[Tensor], Tensor] = partial(run_one_by_one, run_network)
        if self._device.type == "cuda":
            where = f"{self.device}, {torch.cuda.get_device_name(self._device)}"
            self.callers_at_once = CALLERS_AT_ONCE
            self._transfer = transfer = CudaTransfer(self._device, CALLERS_AT_ONCE)
            self._run_network = graphs = GraphedFunction(run_network, transfer.computing)
            self._free_memory = partial(transfer.run_alone, graphs.forget)
        head = type(self._head).__name__
        self.description = f"torch {torch.__version__} in {precision} with {head} on {where}"

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """See `Engine.segment`. Raises DeviceLost."""
        return self._run(canvases, regions, confidence=False)

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """See `Engine.measure_confidence`. Raises DeviceLost."""
        return self._run(canvases, regions, confidence=True)

    def _run(
        self, canvases: Sequence[Array], regions: Sequence[Region], *, confidence: bool
    ) -> list[Array]:
        height, width, _ = canvases[0].shape

        def compute(part: slice) -> list[Array]:
            return self._run_part(canvases[part], regions[part], confidence=confidence)

        return self._limit.compute(
            compute, len(canvases), pixels_each=height * width, free=self._free_memory
        )

    def _run_part(
        self, canvases: Sequence[Array], regions: Sequence[Region], *, confidence: bool
    ) -> list[Array]:
        height, width, _ = canvases[0].shape
        layout = MaskLayout((height, width), regions)
        compute = partial(self._compute, layout=layout, regions=regions, confidence=confidence)
        with self._transfer.run(canvases, layout.bytes, compute) as run:
            return layout.copy_masks(run)

    @torch.inference_mode()
    def _compute(
        self,
        images: Tensor,
        run: Tensor,
        *,
        layout: MaskLayout,
        regions: Sequence[Region],
        confidence: bool,
    ) -> None:
        logits = self._run_network(images)
        masks = layout.view_canvases(run)
        if masks is not None:  # images after the last region are padding
            self._head.segment_canvases(logits[: len(regions)], masks, confidence=confidence)
        for image, mask in layout.iterate_scaled(run):
            self._head.segment_scaled(logits[image], regions[image], mask, confidence=confidence)


def create_head(network: FoldedNetwork, device: torch.device, dtype: torch.dtype) -> Head:
    """Create the Triton head if it works here, or else PyTorch's, which is slower."""
    if device.type == "cuda" and find_spec("triton"):
        try:
            return create_triton_head(network, device, dtype)
        except Exception as error:  # it needs a C compiler, a writable folder and more
            log.warning("PyTorch makes the masks, because Triton does not work here: %s", error)
    return TorchHead(network, device)


def create_triton_head(network: FoldedNetwork, device: torch.device, dtype: torch.dtype) -> Head:
    """Raises EngineError for an unsupported GPU or network, and the errors of Triton."""
    from model.engines.triton_head import TritonHead

    capability = torch.cuda.get_device_capability(device)
    if capability < TRITONS_CAPABILITY:
        raise EngineError(f"the GPU's compute capability is {capability}, below 8.0")
    head = TritonHead(network, device, dtype)
    head.try_out()
    return head


def run_one_by_one(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Compute each image alone, because oneDNN's order of sums depends on the batch size."""
    return torch.cat([compute(image[None]) for image in images])
