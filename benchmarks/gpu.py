"""The engine, the server and training on one GPU, beside what is expected of an H100 with 16 cores.

Ends within ten minutes. Without a GPU it measures nothing and exits with status 1. The rates on
the device begin with uint8 images in its memory and end with masks there; all others begin and end
in the memory of the CPU. Eager PyTorch computes in float32, without TensorFloat-32.
"""

if __name__ == "__main__":  # before the imports that fail without them
    from model.extras import require_packages

    require_packages("torch", "torchvision")

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import nn

from benchmarks import report
from benchmarks.augmentation import measure_gpu
from benchmarks.connection import upload_request
from benchmarks.engine import load_network, prepare_eager, replace_kernel
from benchmarks.load import run_closed_loop
from benchmarks.photos import decode_photo, open_photos
from benchmarks.process import OUR_PATH, start_our_server
from benchmarks.report import Cell, Quick, Row, median_ms, publish, read_plan, run_in_turns
from model.engines import folding
from model.engines.base import Engine, Region, Size
from model.engines.cuda_engine import DTYPES, CudaEngine, create_head
from model.engines.cuda_graphs import WORTH_RECORDING, GraphedFunction
from model.engines.torch_network import TorchNetwork
from model.predictor import Predictor
from model.weights import SHIPPED_WEIGHTS, Weights, read_weights

SIZE = (320, 480)
BATCH = 32

EXPECTED: dict[str, Cell] = {
    "images/s on the device, float16": 30_000,
    "ms for one image": "at most 0.6",
    "times eager PyTorch in float32": 12,
    "requests/s, JPEG in and PNG out": 5_000,
    "ms of the 99th percentile of requests": "at most 50",
    "equal pixels, float16 and float32": "99.9 %",
    "MB of GPU memory, canvases of VOC": "at most 4000",
    "MB more after the second half": 0,
}
"""What is expected of the figures; of others, nothing."""


@dataclass(frozen=True)
class Plan(report.Plan):
    images: Annotated[Path | None, "folder of JPEG photos of 500 x 375"] = None
    photos: Annotated[int, "number of different photos", Quick(4)] = 64
    rounds: Annotated[int, "number of rounds", Quick(5)] = 50
    seconds: Annotated[float, "of random sizes, and of requests", Quick(5.0)] = 60.0
    callers: Annotated[int, "connections that send requests", Quick(8)] = 64


def main() -> None:
    plan = read_plan(Plan, "gpu", __doc__)
    if not torch.cuda.is_available():
        sys.exit("error: there is no CUDA GPU here, so nothing was measured")
    photos = open_photos(plan.photos, plan.images)
    weights = read_weights(SHIPPED_WEIGHTS)
    figures: dict[str, Cell] = {}
    for kernel in ("bilinear", "dense"):
        for precision in ("float16", "float32"):
            rate = measure_on_device(replace_kernel(weights, kernel), precision, plan.rounds)
            suffix = "" if kernel == "bilinear" else ", dense kernel"
            figures[f"images/s on the device, {precision}{suffix}"] = rate
    exact = CudaEngine(weights, precision="float32")
    fast = CudaEngine(weights, precision="float16")
    figures |= measure_calls(fast, load_network(weights), weights, plan.rounds)
    figures["equal pixels, float16 and float32"] = compare_masks(
        *(Predictor(engine, weights.metadata) for engine in (fast, exact)), photos
    )
    del exact
    torch.cuda.empty_cache()  # the memory of `fast` alone is measured
    figures |= measure_memory(
        Predictor(fast, weights.metadata), plan.seconds, torch.cuda.memory_reserved
    )
    figures |= measure_server(photos, plan)
    figures |= measure_gpu()
    title = f"One GPU: {torch.cuda.get_device_name()}"
    publish("gpu", title, list_rows(figures), plan=plan, engine=fast.description)


def list_rows(figures: dict[str, Cell]) -> list[Row]:
    return [
        {"figure": name, "measured": value, "expected": EXPECTED.get(name, "")}
        for name, value in figures.items()
    ]


@torch.inference_mode()
def measure_on_device(weights: Weights, precision: str, rounds: int) -> float:
    """Return images per second of batches of 32, in sequence, by the GPU's own clock."""
    device, dtype = torch.device("cuda:0"), DTYPES[precision]
    network, stream = folding.fold(weights), torch.cuda.Stream(device)
    head = create_head(network, device, dtype)
    run = GraphedFunction(
        TorchNetwork(network, weights.metadata, device, dtype).coarse_logits, stream
    )
    images = torch.randint(0, 256, (BATCH, *SIZE, 3), dtype=torch.uint8, device=device)
    masks = torch.empty(BATCH, *SIZE, dtype=torch.uint8, device=device)
    torch.cuda.synchronize()
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(stream):
        for number in range(2 * WORTH_RECORDING + rounds):
            if number == 2 * WORTH_RECORDING:
                began.record()
            head.segment_canvases(run(images), masks)
        ended.record()
    torch.cuda.synchronize()
    return 1000 * BATCH * rounds / began.elapsed_time(ended)


def measure_calls(
    engine: Engine, network: nn.Module, weights: Weights, rounds: int
) -> dict[str, Cell]:
    """One caller with one image; eager PyTorch and the engine in turns; then all callers."""
    rng = np.random.default_rng(0)
    canvases = list(rng.integers(0, 256, (BATCH, *SIZE, 3)).astype(np.uint8))
    regions = [Region(SIZE, SIZE)] * BATCH
    one = run_in_turns(
        {"one": lambda: engine.segment(canvases[:1], regions[:1])},
        rounds=4 * rounds,
        warm_up=2 * WORTH_RECORDING,
    )["one"]
    eager = prepare_eager(network.to(engine.device), weights)
    seconds = run_in_turns(
        {"eager": lambda: eager(canvases), "engine": lambda: engine.segment(canvases, regions)},
        rounds=rounds,
        warm_up=2 * WORTH_RECORDING,
    )
    calls = rounds * engine.callers_at_once
    with ThreadPoolExecutor(engine.callers_at_once) as callers:
        started = time.perf_counter()
        list(callers.map(lambda _: engine.segment(canvases, regions), range(calls)))
        wall_s = time.perf_counter() - started
    return {
        "ms for one image": median_ms(one),
        "times eager PyTorch in float32": median_ms(seconds["eager"])
        / median_ms(seconds["engine"]),
        "images/s of one caller": 1000 * BATCH / median_ms(seconds["engine"]),
        "images/s of all callers": calls * BATCH / wall_s,
    }


def compare_masks(ours: Predictor, exact: Predictor, photos: Sequence[bytes]) -> str:
    images = [decode_photo(photo) for photo in photos]
    return f"{np.mean([np.mean(ours(image) == exact(image)) for image in images]):.3%}"


def list_canvases(limit: int = 512) -> list[Size]:
    """Return the canvases of VOC's photos: both sides multiples of 32, up to 512."""
    sides = range(32, limit + 1, 32)
    return [(height, width) for height in sides for width in sides]


def measure_memory(
    predictor: Predictor, seconds: float, read_bytes: Callable[[], int]
) -> dict[str, Cell]:
    """Measure the memory reserved for all canvases, and its growth over random sizes and batches.

    Of the time, half is the warm-up of what random sizes need, and half is measured.
    """
    rng = np.random.default_rng(0)
    canvases = list_canvases()
    for size in canvases:
        predictor(np.zeros((*size, 3), np.uint8))
    images, reserved = 0, []
    for _ in range(2):
        until = time.perf_counter() + seconds / 2
        while time.perf_counter() < until:
            size = canvases[rng.integers(len(canvases))]
            batch = [predictor.prepare(np.zeros((*size, 3), np.uint8))] * int(rng.integers(1, 33))
            predictor.predict(batch)
            images += len(batch)
        reserved.append(read_bytes() / 1e6)
    return {
        "MB of GPU memory, canvases of VOC": reserved[-1],
        "MB more after the second half": reserved[1] - reserved[0],
        "images of random sizes": images,
    }


def measure_server(photos: Sequence[bytes], plan: Plan) -> dict[str, Cell]:
    """One server, one load generator: it takes a core, and may be what limits the rate."""
    requests = [upload_request(OUR_PATH, photo) for photo in photos]
    with start_our_server(device="cuda", max_queue=4 * plan.callers) as server:
        for seconds in (min(10.0, plan.seconds), plan.seconds):  # the first one warms up
            load = run_closed_loop(server.address, requests, callers=plan.callers, seconds=seconds)
    return {
        "requests/s, JPEG in and PNG out": load.throughput,
        "ms of the 99th percentile of requests": load.latency_ms(0.99),
        "share of a core of the load generator": load.client_share,
    }


if __name__ == "__main__":
    main()
