"""Engines compared with eager PyTorch, with each other and with a lower bound.

Every engine computes the same canvas in every round, and the masks are compared in the same run.
The lower bound ("floor") is the time that the network's multiply-adds take at the rate of this
machine's matrix product. Winograd's algorithm needs fewer multiply-adds, so an engine can be
faster. OpenVINO is measured where it is installed.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import report
from benchmarks.notebook import load_notebook_network
from benchmarks.photos import decode_photo, make_photos
from benchmarks.report import Cell, Quick, median_ms, publish, read_plan, run_in_turns
from model.engines.base import Array, Engine, EngineName, Size, count_usable_cores
from model.engines.choice import start_engine
from model.engines.torch_engine import normalise
from model.errors import EngineError
from model.predictor import Canvas, Predictor
from model.state_dict import network_from_weights
from model.weights import SHIPPED_WEIGHTS, Weights, read_weights

ENGINES: tuple[EngineName, ...] = ("native", "ncnn", "torch")
BFLOAT16 = "bfloat16"
TRAINED_NOISE = 0.02
"""The standard deviation of the noise that makes a bilinear kernel dense, as training does."""

MIN_EQUAL = 0.999
"""The share of the pixels on which the masks of all exact engines must agree."""


@dataclass(frozen=True)
class Plan(report.Plan):
    threads: Annotated[int, "number of threads"] = count_usable_cores()
    rounds: Annotated[int, "number of rounds", Quick(2)] = 15
    weights: Annotated[Path | None, "weights file, of any architecture"] = None
    sizes: Annotated[Sequence[Size], Quick(((224, 224),))] = (
        (224, 224),
        (375, 500),
        (480, 640),
        (768, 1024),
    )


def main() -> None:
    plan = read_plan(Plan, "engine", __doc__)
    torch.set_num_threads(plan.threads)
    rate = measure_multiply_adds_per_s()
    read = read_weights(plan.weights or SHIPPED_WEIGHTS)
    rows = []
    for kernel in ("dense", "bilinear"):
        weights = replace_kernel(read, kernel)
        network = load_network(weights)
        predictors = {
            name: Predictor(engine, weights.metadata)
            for name, engine in start_engines(weights, plan.threads).items()
        }
        for size in plan.sizes:
            canvas = predictors["native"].prepare(decode_photo(make_photos(1, size)[0]))
            candidates = list_candidates(canvas, weights, network, predictors)
            agreement = compare_masks(candidates, size)
            floor_ms = 1000 * count_multiply_adds(network, canvas.size) / rate
            seconds = run_in_turns(candidates, rounds=plan.rounds, settle_s=0.05)
            row = {"photo": f"{size[0]} x {size[1]}", "kernel": kernel, **describe_times(seconds)}
            rows.append(row | {"floor ms": floor_ms, "equal pixels": f"{agreement:.5%}"})
    title = "Engines: milliseconds for one photo on the CPU, and how many times eager PyTorch"
    variant = read.metadata.network.name if plan.weights else ""
    publish("engine", title, rows, plan=plan, variant=variant, multiply_adds_per_s=rate)


def load_network(weights: Weights) -> nn.Module:
    """Return the network for eager PyTorch: the notebook's, or ours if it has skips."""
    skips = weights.metadata.network.skips
    return network_from_weights(weights) if skips else load_notebook_network(weights)


def start_engines(weights: Weights, threads: int) -> dict[str, Engine]:
    """Start all engines, and the native engine also in bfloat16 if the processor has AMX."""
    engines: dict[str, Engine] = {
        name: start_engine(weights, engine=name, device="cpu", threads=threads) for name in ENGINES
    }
    with suppress(EngineError):
        engines[BFLOAT16] = start_engine(
            weights, engine="native", threads=threads, device="cpu", precision="bfloat16"
        )
    return engines


def list_candidates(
    canvas: Canvas, weights: Weights, network: nn.Module, predictors: Mapping[str, Predictor]
) -> dict[str, Callable[[], Array]]:
    """Return functions that compute the canvas' mask, eager PyTorch first."""
    predict = prepare_eager(network, weights)
    candidates = {"eager": lambda: predict([canvas.pixels])[0]}
    for name, predictor in predictors.items():
        candidates[name] = lambda predictor=predictor: predictor.predict([canvas])[0]
    if find_spec("openvino"):
        candidates["openvino"] = prepare_openvino(network, weights, canvas.pixels)
    return candidates


def compare_masks(candidates: Mapping[str, Callable[[], Array]], size: Size) -> float:
    """Return the smallest share of the pixels on which a candidate agrees with eager PyTorch."""
    masks = {
        name: run()[: size[0], : size[1]]
        for name, run in candidates.items()
        if name != BFLOAT16  # not exact: its effect on mean IoU is measured elsewhere
    }
    agreement = min(float(np.mean(mask == masks["eager"])) for mask in masks.values())
    assert agreement >= MIN_EQUAL, f"the engines disagree on {1 - agreement:.2%} of the pixels"
    return agreement


def describe_times(seconds: Mapping[str, Sequence[float]]) -> dict[str, Cell]:
    ms = {name: median_ms(values) for name, values in seconds.items()}
    row: dict[str, Cell] = {f"{name} ms": value for name, value in ms.items()}
    row |= {f"{name} x": ms["eager"] / value for name, value in ms.items() if name != "eager"}
    if "openvino" in ms:
        row["openvino / native x"] = ms["openvino"] / ms["native"]
    return row


def replace_kernel(weights: Weights, kernel: str) -> Weights:
    """Return the weights unchanged ("bilinear"), or with a last kernel without zeros ("dense")."""
    if kernel == "bilinear":
        return weights
    name = "transpose_conv.weight"
    noise = np.random.default_rng(0).normal(0, TRAINED_NOISE, weights.tensors[name].shape)
    dense = {name: weights.tensors[name] + noise.astype(np.float32)}
    return replace(weights, tensors={**weights.tensors, **dense})


def prepare_eager(network: nn.Module, weights: Weights) -> Callable[[Sequence[Array]], Array]:
    """Return the notebook's prediction: normalise a batch, run the whole network, argmax."""
    device = next(network.parameters()).device
    mean, std = weights.metadata.mean, weights.metadata.std

    @torch.inference_mode()
    def predict(canvases: Sequence[Array]) -> Array:
        images = torch.from_numpy(np.stack(canvases)).to(device)
        logits = network(normalise(images, mean, std).contiguous())
        masks: Array = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
        return masks

    return predict


class _Argmax(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images).argmax(dim=1).to(torch.uint8)


def prepare_openvino(network: nn.Module, weights: Weights, pixels: Array) -> Callable[[], Array]:
    """Compile the network with argmax by OpenVINO, in float32, for the size of these pixels."""
    import openvino

    shape = [1, 3, *pixels.shape[:2]]
    model = openvino.convert_model(_Argmax(network), example_input=torch.zeros(shape))
    model.reshape(shape)
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    mean = np.array(weights.metadata.mean, np.float32)
    std = np.array(weights.metadata.std, np.float32)

    def run() -> Array:
        image = ((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)[None]
        return request.infer([np.ascontiguousarray(image)])[0][0]

    return run


def count_multiply_adds(network: nn.Module, canvas: Size) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *canvas))
    return counter.get_total_flops() / 2


def measure_multiply_adds_per_s() -> float:
    """Measure the best rate of several products of 2048 x 2048 matrices."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = run_in_turns({"product": lambda: a @ b}, rounds=7)["product"]
    return 2048**3 / min(seconds)


if __name__ == "__main__":
    main()
