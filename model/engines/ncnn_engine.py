"""The engine on ncnn, for CPUs: needs neither torch nor a compiler.

Knows nothing of HTTP, and keeps no files.
"""

import os
import tempfile
from collections.abc import Sequence

# Otherwise OpenMP's threads spin while they wait: with another busy process, ncnn was eight times
# slower. OpenMP reads this when ncnn is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import ncnn
import numpy as np

from model.engines import folding
from model.engines.base import Array, Region, count_usable_cores, describe_threads
from model.engines.numpy_head import NumpyHead
from model.weights import Weights

INPUT, OUTPUT = "images", "coarse_logits"
PARAM_MAGIC = "7767517"
FLOAT32_TAG = b"\0\0\0\0"
"""The tag in front of a layer's weights: plain float32 follows."""


class NcnnEngine:
    """Float32, Winograd convolutions, batch norms folded in."""

    device = "cpu"
    callers_at_once = 1
    images_per_call = 1

    def __init__(self, weights: Weights, *, threads: int = 0) -> None:
        """`threads`: 0 takes one per core. Raises WeightsError for tensors that do not fit."""
        network = folding.fold(weights)
        self._threads = threads or count_usable_cores()
        self._net = _load(network, self._threads)
        self._head = NumpyHead(network)
        self._levels = folding.normalise_levels(weights.metadata)
        self.description = f"ncnn {ncnn.__version__} on cpu, {describe_threads(self._threads)}"

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """See `Engine.segment`. Images go through one by one: a batch would not be faster."""
        return [
            self._head(self.coarse_logits(canvas), region)
            for canvas, region in zip(canvases, regions, strict=True)
        ]

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """See `Engine.measure_confidence`."""
        return [
            self._head.measure_confidence(self.coarse_logits(canvas), region)
            for canvas, region in zip(canvases, regions, strict=True)
        ]

    def coarse_logits(self, canvas: Array) -> folding.Floats:
        """Turn a canvas (H, W, 3) into the logits of every `stride`th pixel, (C, h, w)."""
        images = np.empty((3, *canvas.shape[:2]), np.float32)
        for channel in range(3):
            np.take(self._levels[channel], canvas[..., channel], out=images[channel])
        extractor = self._net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(images))
        status, logits = extractor.extract(OUTPUT)
        if status != 0:
            raise RuntimeError(f"ncnn's extract returned {status}")
        return np.array(logits)


def _load(network: folding.FoldedNetwork, threads: int) -> ncnn.Net:
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    # Float32 throughout, so that masks equal those of float32 PyTorch.
    net.opt.use_fp16_packed = False
    net.opt.use_fp16_storage = False
    net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    graph = _Graph()
    graph.build(network)
    if net.load_param_mem(graph.param) != 0:
        raise RuntimeError("ncnn does not accept the network's description")
    # ncnn's binding reads weights from files only.
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(graph.weights))
        file.flush()
        if net.load_model(file.name) != 0:
            raise RuntimeError("ncnn does not accept the network's weights")
    return net


class _Graph:
    """ncnn's description of the network: its layers as text, their weights in the same order."""

    def __init__(self) -> None:
        self._layers: list[str] = []
        self._blobs = 0
        self.weights: list[bytes] = []

    @property
    def param(self) -> str:
        head = [PARAM_MAGIC, f"{len(self._layers)} {self._blobs}"]
        return "\n".join([*head, *self._layers, ""])

    def build(self, network: folding.FoldedNetwork) -> None:
        self._add_layer("Input", [], [INPUT])
        x = self._add_convolution("stem", INPUT, network.stem, relu=True)
        # 3 x 3 maximum, stride 2, padding 1; pad_mode 1: the output size is rounded down.
        x = self._add_layer("Pooling", [x], ["pooled"], "0=0 1=3 2=2 3=1 5=1")
        starts, finer = {skip.block for skip in network.skips}, {}
        for number, block in enumerate(network.blocks):
            x = self._add_block(f"block{number}", x, block)
            if number in starts:
                finer[number] = f"block{number}_skipped"
                x = self._add_layer("Split", [x], [f"block{number}_next", finer[number]])
        first, *sums = [*(f"coarse{number}" for number in range(len(starts))), OUTPUT]
        coarse = self._add_convolution(first, x, network.classifier)
        for skip, total in zip(network.skips, sums, strict=True):
            doubled = self._add_doubling(f"{total}_doubled", coarse, skip.doubling)
            logits = self._add_convolution(f"{total}_skip", finer[skip.block], skip.classifier)
            coarse = self._add_layer("BinaryOp", [doubled, logits], [total], "0=0")

    def _add_block(self, name: str, x: str, block: folding.Block) -> str:
        identity = f"{name}_identity"
        self._add_layer("Split", [x], [f"{name}_x", identity])
        x = self._add_convolution(f"{name}_first", f"{name}_x", block.first, relu=True)
        x = self._add_convolution(f"{name}_second", x, block.second)
        if block.shortcut:
            identity = self._add_convolution(f"{name}_shortcut", identity, block.shortcut)
        total = self._add_layer("BinaryOp", [x, identity], [f"{name}_sum"], "0=0")
        return self._add_layer("ReLU", [total], [f"{name}_out"])

    def _add_convolution(
        self, name: str, x: str, convolution: folding.Convolution, *, relu: bool = False
    ) -> str:
        channels, _, size, _ = convolution.kernel.shape
        self.weights += [
            FLOAT32_TAG,
            convolution.kernel.astype("<f4").tobytes(),
            convolution.bias.astype("<f4").tobytes(),
        ]
        return self._add_layer(
            "Convolution",
            [x],
            [name],
            f"0={channels} 1={size} 3={convolution.stride} 4={size // 2} 5=1 "
            f"6={convolution.kernel.size} 9={int(relu)}",
        )

    def _add_doubling(self, name: str, x: str, kernel: folding.Floats) -> str:
        channels, size = kernel.shape[1], kernel.shape[-1]
        # The output's channel comes first in ncnn's kernel, the input's in PyTorch's.
        self.weights += [FLOAT32_TAG, kernel.swapaxes(0, 1).astype("<f4").tobytes()]
        options = f"0={channels} 1={size} 3=2 4=1 6={kernel.size}"
        return self._add_layer("Deconvolution", [x], [name], options)

    def _add_layer(
        self, kind: str, inputs: list[str], outputs: list[str], options: str = ""
    ) -> str:
        counts = f"{len(inputs)} {len(outputs)}"
        self._layers.append(" ".join([kind, outputs[0], counts, *inputs, *outputs, options]))
        self._blobs += len(outputs)
        return outputs[0]
