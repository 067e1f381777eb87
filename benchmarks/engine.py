"""Engines against eager PyTorch, against each other and against the floor of multiply-adds.

Every engine computes the same canvas in every round, and their masks are compared in the same run.
The floor is what the network's multiply-adds, done one by one, would take at the rate of this
machine's matrix product; Winograd's convolutions do fewer. OpenVINO takes part where it is
installed.

    python -m benchmarks.engine [--threads N] [--rounds N] [--quick]
"""

import argparse
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.notebook import notebook_network
from benchmarks.photos import made_photos
from benchmarks.report import in_turns, median_ms, write
from model.engines.base import Array, Engine, EngineName, Size, usable_cores
from model.engines.choice import start_engine
from model.errors import EngineError
from model.predictor import Predictor
from model.weights import SHIPPED_WEIGHTS, Weights, read_weights

SIZES: tuple[Size, ...] = ((224, 224), (375, 500), (480, 640), (768, 1024))
ENGINES: tuple[EngineName, ...] = ("native", "ncnn", "torch")
BFLOAT16 = "bfloat16"
TRAINED_NOISE = 0.02
"""Standard deviation of what makes a bilinear kernel dense, as training it does."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one small size, two rounds")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sizes = SIZES[:1] if arguments.quick else SIZES
    rounds = 2 if arguments.quick else arguments.rounds
    rate = products_per_s()
    rows = []
    for kernel in ("dense", "bilinear"):
        weights = with_kernel(read_weights(SHIPPED_WEIGHTS), kernel)
        network = notebook_network(weights)
        predictors = {
            name: Predictor(engine, weights.metadata)
            for name, engine in engines(weights, arguments.threads).items()
        }
        for size in sizes:
            rows.append(
                measure(kernel, size, weights, network, predictors, rounds=rounds, rate=rate)
            )
    title = "Engines: milliseconds for one photo on the CPU, and how many times eager PyTorch"
    write("engine", title, rows, threads=arguments.threads, multiply_adds_per_s=rate)


def engines(weights: Weights, threads: int) -> dict[str, Engine]:
    """All of them; the native one in bfloat16, too, where the processor has AMX."""
    found = {
        name: start_engine(weights, engine=name, device="cpu", threads=threads) for name in ENGINES
    }
    with suppress(EngineError):
        found[BFLOAT16] = start_engine(
            weights, engine="native", threads=threads, device="cpu", precision="bfloat16"
        )
    return found


def measure(
    kernel: str,
    size: Size,
    weights: Weights,
    network: nn.Module,
    predictors: Mapping[str, Predictor],
    *,
    rounds: int,
    rate: float,
) -> dict[str, str | float]:
    """One row: all candidates in turns, and the share of pixels on which they agree."""
    canvas = predictors["native"].prepare(decoded(size))
    eager = eager_segmentation(network, weights, canvas.pixels)
    candidates: dict[str, Callable[[], Array]] = {"eager": eager}
    for name, predictor in predictors.items():
        candidates[name] = lambda predictor=predictor: predictor.predict([canvas])[0]
    if find_spec("openvino"):
        candidates["openvino"] = openvino_segmentation(network, weights, canvas.pixels)
    expected = eager()[: size[0], : size[1]]
    agreement = min(
        float(np.mean(run()[: size[0], : size[1]] == expected))
        for name, run in candidates.items()
        if name != BFLOAT16  # fast, not exact: its cost is measured in mean IoU
    )
    assert agreement >= 0.999, f"the engines disagree on {1 - agreement:.2%} of the pixels"
    seconds = in_turns(candidates, rounds=rounds, settle_s=0.05)
    milliseconds = {name: median_ms(values) for name, values in seconds.items()}
    row: dict[str, str | float] = {"photo": f"{size[0]} x {size[1]}", "kernel": kernel}
    row |= {f"{name} ms": value for name, value in milliseconds.items()}
    row |= {
        f"{name} x": milliseconds["eager"] / value
        for name, value in milliseconds.items()
        if name != "eager"
    }
    if "openvino" in milliseconds:
        row["openvino / native x"] = milliseconds["openvino"] / milliseconds["native"]
    row["floor ms"] = 1000 * multiply_adds(canvas.size, len(weights.metadata.classes)) / rate
    row["equal pixels"] = f"{agreement:.5%}"
    return row


def decoded(size: Size) -> Array:
    with Image.open(io.BytesIO(made_photos(1, size)[0])) as image:
        return np.asarray(image.convert("RGB"))


def with_kernel(weights: Weights, kernel: str) -> Weights:
    """The weights as they are (bilinear), or with a last kernel that has no zeros (dense)."""
    if kernel == "bilinear":
        return weights
    name = "transpose_conv.weight"
    noise = np.random.default_rng(0).normal(0, TRAINED_NOISE, weights.tensors[name].shape)
    tensors = dict(weights.tensors)
    tensors[name] = tensors[name] + noise.astype(np.float32)
    return replace(weights, tensors=tensors)


def eager_segmentation(network: nn.Module, weights: Weights, pixels: Array) -> Callable[[], Array]:
    """As the notebook does it: normalise, whole network, argmax."""
    mean = torch.tensor(weights.metadata.mean).view(1, 3, 1, 1)
    std = torch.tensor(weights.metadata.std).view(1, 3, 1, 1)

    def run() -> Array:
        with torch.no_grad():
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
            return network((image - mean) / std).argmax(dim=1)[0].to(torch.uint8).numpy()

    return run


class _Argmax(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).argmax(dim=1).to(torch.uint8)


def openvino_segmentation(
    network: nn.Module, weights: Weights, pixels: Array
) -> Callable[[], Array]:
    """OpenVINO's whole network with argmax, float32, for the size of these pixels."""
    import openvino

    height, width, _ = pixels.shape
    example = torch.zeros(1, 3, height, width)
    model = openvino.convert_model(_Argmax(network), example_input=example)
    model.reshape([1, 3, height, width])
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    request = compiled.create_infer_request()
    mean = np.array(weights.metadata.mean, np.float32)
    std = np.array(weights.metadata.std, np.float32)

    def run() -> Array:
        image = ((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)[None]
        return request.infer([np.ascontiguousarray(image)])[0][0]

    return run


def multiply_adds(canvas: Size, classes: int) -> float:
    """Of the whole network, the transposed convolution included."""
    height, width = canvas
    quarter = height * width / 16  # pixels behind the maximum
    total = 4 * quarter * 64 * 3 * 49  # the first convolution
    total += quarter * 4 * 64 * 64 * 9
    for level, channels in enumerate((128, 256, 512), start=1):
        pixels = quarter / 4**level
        total += pixels * channels * (channels // 2) * (9 + 1)  # stride 2, and the shortcut
        total += pixels * 3 * channels * channels * 9
    coarse = height * width / 1024
    return total + coarse * 512 * classes + coarse * classes * classes * 64 * 64


def products_per_s() -> float:
    """Multiply-adds a second of a 2048 x 2048 matrix product, the best of some."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = in_turns({"product": lambda: a @ b}, rounds=7)["product"]
    return 2048**3 / min(seconds)


if __name__ == "__main__":
    main()
