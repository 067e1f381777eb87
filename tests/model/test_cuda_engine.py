"""The engine for GPUs: its arithmetic and its faults on the CPU, the rest where there is a GPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from model.engines import cuda_engine, cuda_graphs
from model.engines.base import Region
from model.engines.cuda_engine import CudaEngine
from model.engines.mask_layout import MaskLayout
from model.engines.torch_engine import TorchEngine
from model.golden import require_golden_mask
from model.predictor import Predictor, open_predictor
from model.weights import SHIPPED_WEIGHTS, read_weights

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def weights(weights_file):
    return read_weights(weights_file)


def make_batch(photo, size=(64, 96)):
    """Canvases that differ, and regions of whole, cropped and scaled masks."""
    height, width = size
    canvases = [np.roll(photo, 31 * i, axis=1)[:height, :width] for i in range(5)]
    whole, cropped = Region(size, size), Region((50, 70), (50, 70))
    return canvases, [whole, Region((60, 90), (91, 130)), cropped, Region((64, 96), (5, 7)), whole]


@pytest.mark.parametrize("method", ["segment", "measure_confidence"])
def test_whole_cropped_and_scaled_masks_come_from_one_batch(weights, photo, method):
    canvases, regions = make_batch(photo)
    engine = CudaEngine(weights, device="cpu", precision="float32")
    expected = getattr(TorchEngine(weights), method)(canvases, regions)
    for mask, other, region in zip(
        getattr(engine, method)(canvases, regions), expected, regions, strict=True
    ):
        assert mask.shape == region.output
        assert np.array_equal(mask, other)


def test_only_scaled_masks_need_no_whole_ones():
    regions = [Region((20, 30), (40, 60)), Region((32, 32), (1, 3))]
    layout = MaskLayout((32, 32), regions)
    run = np.arange(layout.bytes, dtype=np.uint8)
    assert layout.bytes == 40 * 60 + 3
    assert layout.view_canvases(run) is None
    assert [mask.shape for mask in layout.copy_masks(run)] == [(40, 60), (1, 3)]


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_computes_the_network(precision):
    weights = read_weights(SHIPPED_WEIGHTS)
    engine = CudaEngine(weights, device="cpu", precision=precision)
    require_golden_mask(engine, weights)
    assert precision in engine.description


def test_a_batch_too_large_for_the_memory_is_halved_and_remembered(weights, photo, monkeypatch):
    calls = []

    def refuse_large(compute, images):
        calls.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.cat([compute(image[None]) for image in images])

    canvases, regions = make_batch(photo)
    expected = TorchEngine(weights).segment(canvases, regions)
    monkeypatch.setattr(cuda_engine, "run_one_by_one", refuse_large)
    engine = CudaEngine(weights, device="cpu", precision="float32")
    for sizes in ([5, 2, 2, 1], [2, 2, 1]):
        calls.clear()
        masks = engine.segment(canvases, regions)
        assert calls == sizes
        assert all(np.array_equal(*pair) for pair in zip(masks, expected, strict=True))


def test_one_image_too_large_for_the_memory_fails(weights, photo, monkeypatch):
    def refuse(compute, images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_engine, "run_one_by_one", refuse)
    engine = CudaEngine(weights, device="cpu", precision="float32")
    canvases, regions = make_batch(photo)
    with pytest.raises(torch.OutOfMemoryError):
        engine.segment(canvases, regions)


@pytest.mark.gpu
@needs_gpu
def test_the_gpu_agrees_with_the_cpu(weights_file, photo):
    on_cpu = open_predictor(weights_file, device="cpu")(photo)
    for precision, share in (("float32", 0.9999), ("float16", 0.998)):
        on_gpu = open_predictor(weights_file, device="cuda", precision=precision)(photo)
        assert np.mean(on_gpu == on_cpu) >= share


@pytest.mark.gpu
@needs_gpu
def test_the_gpu_gives_the_same_masks_with_graphs_and_several_callers(weights, photo):
    engine = CudaEngine(weights, device="cuda", precision="float32")
    canvases, regions = make_batch(photo)
    expected = TorchEngine(weights).segment(canvases, regions)
    calls = 4 * cuda_graphs.WORTH_RECORDING
    with ThreadPoolExecutor(engine.callers_at_once) as callers:
        batches = callers.map(lambda _: engine.segment(canvases, regions), range(calls))
        for masks in batches:
            for mask, other in zip(masks, expected, strict=True):
                assert np.mean(mask == other) >= 0.999


@pytest.mark.gpu
@needs_gpu
def test_the_gpu_allocates_nothing_in_steady_state(weights, photo):
    engine = CudaEngine(weights, device="cuda")
    canvases, regions = make_batch(photo)
    for _ in range(2 * cuda_graphs.WORTH_RECORDING):
        engine.segment(canvases, regions)
    before = torch.cuda.memory_stats()["num_device_alloc"]
    for _ in range(20):
        engine.segment(canvases, regions)
    assert torch.cuda.memory_stats()["num_device_alloc"] == before


@pytest.mark.gpu
@needs_gpu
def test_many_sizes_keep_few_graphs(weights, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    engine = CudaEngine(weights, device="cuda", precision="float32")
    predictor, reference = (
        Predictor(chosen, weights.metadata) for chosen in (engine, TorchEngine(weights))
    )
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32 * i, 64, 3)).astype(np.uint8) for i in range(1, 5)]
    for _ in range(2 * cuda_graphs.WORTH_RECORDING):
        for image in images:
            assert np.mean(predictor(image) == reference(image)) >= 0.999
