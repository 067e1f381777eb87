"""The contract of `model.engines.base`, for every engine, compared with plain float32 PyTorch."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from model.architectures import ARCHITECTURES, SKIP_CHANNELS
from model.engines import base, choice
from model.engines.base import Region
from model.engines.cuda_engine import CudaEngine
from model.engines.folding import Convolution, FoldedNetwork
from model.engines.native import library
from model.engines.native_engine import NativeEngine
from model.engines.ncnn_engine import NcnnEngine
from model.engines.numpy_head import NumpyHead, argmax
from model.engines.torch_engine import TorchEngine, choose_device
from model.engines.torch_head import TorchHead
from model.errors import EngineError, WeightsError
from model.network import bilinear_kernel
from model.weights import Weights, read_weights
from tests.conftest import REPOSITORY

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def reference_logits(network, canvas):
    """The notebook's way: normalise, whole network, full logits."""
    image = torch.from_numpy(canvas.copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        return network((image - MEAN) / STD)[0]


@pytest.fixture(scope="module")
def weights(weights_file):
    return read_weights(weights_file)


NATIVE = [f"native-{kind}" for kind in library.list_kinds()]


def native_library(name):
    try:
        return library.prepare_kind(name.partition("-")[2])
    except EngineError as error:
        pytest.skip(f"the native engine cannot be built here: {error}")


def native_engine(weights, name, **options):
    return NativeEngine(weights, native_library(name), **options)


@pytest.fixture(scope="module", params=["torch", "cuda", "ncnn", *NATIVE])
def engine(weights, request):
    if request.param == "torch":
        return TorchEngine(weights)
    if request.param == "cuda":
        return CudaEngine(weights, device="cpu", precision="float32")
    return NcnnEngine(weights) if request.param == "ncnn" else native_engine(weights, request.param)


@pytest.fixture(scope="module")
def small_weights(weights):
    """Builds weights with the given last step. The other tensors do not matter."""

    def build(kernel, bias):
        classes = len(bias)
        tensors = dict(weights.tensors)
        tensors["final_conv.weight"] = np.zeros((classes, 512, 1, 1), np.float32)
        tensors["final_conv.bias"] = np.zeros(classes, np.float32)
        tensors["transpose_conv.weight"], tensors["transpose_conv.bias"] = kernel, bias
        architecture = next(a for a in ARCHITECTURES.values() if 2 * a.stride == kernel.shape[-1])
        for skip in architecture.skips:
            channels = SKIP_CHANNELS[skip]
            tensors[f"skip_convs.{skip}.weight"] = np.zeros((classes, channels, 1, 1), np.float32)
            tensors[f"skip_convs.{skip}.bias"] = np.zeros(classes, np.float32)
            tensors[f"doublings.{skip}.weight"] = np.zeros((classes, classes, 4, 4), np.float32)
        metadata = replace(
            weights.metadata,
            classes=tuple(f"class {i}" for i in range(classes)),
            palette=weights.metadata.palette[:classes],
            architecture=architecture.identifier,
        )
        return Weights(tensors, metadata, source="test")

    return build


def head_of(kind, kernel, bias, small_weights):
    """A function from coarse logits (C, h, w) and a region to a mask or confidence, all numpy."""
    nothing = Convolution(np.zeros((1, 1, 1, 1)), np.zeros(1), 1)
    network = FoldedNetwork(nothing, (), nothing, kernel.numpy(), bias.numpy())
    if kind in NATIVE:
        native = native_engine(small_weights(kernel.numpy(), bias.numpy()), kind)
        return lambda coarse, region, **kind: native.head(coarse.numpy(), region, **kind)
    if kind == "numpy":
        head = NumpyHead(network)

        def run(coarse, region, *, confidence=False):
            return (head.measure_confidence if confidence else head)(coarse.numpy(), region)

        return run
    torch_head = TorchHead(network, torch.device("cpu"))

    def run_torch(coarse, region, *, confidence=False):
        return (torch_head.measure_confidence if confidence else torch_head)(coarse, region).numpy()

    return run_torch


def largest_softmax(logits):
    """255 times the softmax of the largest along the first axis, before it is rounded."""
    return 255 * torch.softmax(logits.double(), dim=0).amax(dim=0).numpy()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (320, 480), (64, 416), (512, 384)])
def test_masks_equal_the_notebooks_argmax(engine, notebook_network, photo, height, width):
    canvas = np.array(Image.fromarray(photo).resize((width, height)))
    size = (height, width)
    (mask,) = engine.segment(canvas[None], [Region(size, size)])
    expected = reference_logits(notebook_network, canvas).argmax(dim=0).numpy()
    assert mask.dtype == np.uint8
    assert np.mean(mask == expected) >= 0.9999


def test_an_image_gets_the_same_mask_alone_and_in_company(engine, photo):
    for size in ((64, 96), (224, 256)):
        scaled = [Image.fromarray(np.roll(photo, 40 * i, axis=1)) for i in range(5)]
        canvases = np.stack([np.asarray(image.resize(size[::-1])) for image in scaled])
        together = engine.segment(canvases, [Region(size, size)] * 5)
        for canvas, mask in zip(canvases, together, strict=True):
            (alone,) = engine.segment(canvas[None], [Region(size, size)])
            assert np.array_equal(alone, mask)


KERNELS = {
    "dense": lambda classes, side: torch.randn(classes, classes, 2 * side, 2 * side),
    "bilinear": lambda classes, side: bilinear_kernel(classes, classes, 2 * side),
}


@pytest.mark.parametrize("kind", ["torch", "numpy", *NATIVE])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", [32, 16, 8])
@pytest.mark.parametrize("classes", [2, 21])
@pytest.mark.parametrize("output", [(90, 120), (96, 128), (1, 1), (33, 128)])
def test_the_head_equals_transposed_convolution_and_argmax(
    kind, kernel, side, classes, output, small_weights
):
    torch.manual_seed(0)
    kernel, bias = KERNELS[kernel](classes, side), torch.randn(classes)
    coarse = torch.randn(classes, 96 // side, 128 // side)
    logits = F.conv_transpose2d(coarse[None], kernel, bias, stride=side, padding=side // 2)[0]
    logits = logits[:, : output[0], : output[1]]
    head, region = head_of(kind, kernel, bias, small_weights), Region(output, output)
    assert np.mean(head(coarse, region) == logits.argmax(dim=0).numpy()) >= 0.9999
    confidence = head(coarse, region, confidence=True)
    assert np.abs(confidence - largest_softmax(logits)).max() <= 0.51


@pytest.mark.parametrize("kind", ["torch", "numpy", *NATIVE])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", [32, 16, 8])
@pytest.mark.parametrize(
    "output", [(200, 300), (91, 121), (90, 500), (45, 60), (2000, 130), (3000, 5), (3, 4000)]
)
def test_the_head_reads_a_scaled_mask_from_interpolated_logits(
    kind, kernel, side, output, small_weights
):
    torch.manual_seed(0)
    kernel, bias = KERNELS[kernel](21, side), torch.randn(21)
    coarse = torch.randn(21, 96 // side, 128 // side)
    logits = F.conv_transpose2d(coarse[None], kernel, bias, stride=side, padding=side // 2)
    scaled = F.interpolate(logits[:, :, :90, :120], output, mode="bilinear", align_corners=False)
    head, region = head_of(kind, kernel, bias, small_weights), Region((90, 120), output)
    assert np.mean(head(coarse, region) == scaled[0].argmax(dim=0).numpy()) >= 0.999
    confidence = head(coarse, region, confidence=True)
    # F.interpolate computes positions in float32.
    assert np.abs(confidence - largest_softmax(scaled[0])).max() <= 0.55


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_wide_mask_is_read_in_several_sweeps(kind, monkeypatch, small_weights):
    torch.manual_seed(0)
    head = head_of(kind, torch.randn(3, 3, 64, 64), torch.randn(3), small_weights)
    coarse, region = torch.randn(3, 3, 4), Region((90, 120), (70, 301))
    at_once = head(coarse, region)
    monkeypatch.setattr("model.engines.tiles.COLUMNS_AT_ONCE", 100)
    assert np.array_equal(head(coarse, region), at_once)


@pytest.mark.parametrize("kind", NATIVE)
def test_the_native_mask_is_the_same_with_any_number_of_threads_and_callers(kind, weights, photo):
    canvases = [np.roll(photo[:288, :448], 50 * i, axis=1) for i in range(6)]
    regions = [Region((280, 440), (280, 440)), *[Region((288, 448), (600, 701))] * 5]
    engines = [native_engine(weights, kind, threads=threads) for threads in (1, 2, 3, 7)]
    expected = engines[0].segment(canvases, regions)
    for engine in engines:
        one_by_one = engine.segment(canvases, regions)
        with ThreadPoolExecutor(engine.callers_at_once) as callers:
            calls = callers.map(lambda c, r, e=engine: e.segment([c], [r])[0], canvases, regions)
            for mask, alone, together in zip(expected, one_by_one, calls, strict=True):
                assert np.array_equal(alone, mask)
                assert np.array_equal(together, mask)
    logits = [engine.coarse_logits(canvases[0]) for engine in engines]
    assert all(np.array_equal(logits[0], other) for other in logits[1:])


@pytest.mark.parametrize("kind", NATIVE)
def test_the_native_logits_are_those_of_the_network(kind, weights, notebook_network, photo):
    engine = native_engine(weights, kind)
    for size in ((32, 32), (32, 352), (256, 64), (288, 448), (32, 32)):
        canvas = np.resize(photo, (*size, 3))
        image = torch.from_numpy(canvas.copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            expected = notebook_network[:-1]((image - MEAN) / STD)[0].numpy()
        found = engine.coarse_logits(canvas)
        assert np.abs(found - expected).max() <= 2e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("kind", NATIVE[:1])
def test_bfloat16_is_close_and_the_same_in_any_company(kind, weights, notebook_network, photo):
    try:
        engines = [
            native_engine(weights, kind, threads=threads, precision="bfloat16")
            for threads in (1, 2, 5)
        ]
    except EngineError as error:
        pytest.skip(str(error))
    for size in ((32, 32), (32, 352), (256, 64), (288, 448), (32, 32)):
        canvas = np.resize(photo, (*size, 3))
        image = torch.from_numpy(canvas.copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            expected = notebook_network[:-1]((image - MEAN) / STD)[0].numpy()
        logits = [engine.coarse_logits(canvas) for engine in engines]
        # Two significant digits of sums over up to 4608 products: bfloat16 has 8 bits of mantissa.
        assert np.abs(logits[0] - expected).max() <= 0.05 * np.abs(expected).max()
        assert all(np.array_equal(logits[0], other) for other in logits[1:])
    regions = [Region((280, 440), output) for output in ((280, 440), (600, 701))] * 3
    canvases = [np.roll(photo[:288, :448], 50 * i, axis=1) for i in range(6)]
    expected = engines[0].segment(canvases, regions)
    with ThreadPoolExecutor(4) as callers:
        calls = callers.map(lambda c, r: engines[2].segment([c], [r])[0], canvases, regions)
        assert all(np.array_equal(a, b) for a, b in zip(expected, calls, strict=True))


def test_only_the_native_engine_has_a_choice_of_precision(weights):
    for engine in ("ncnn", "torch"):
        with pytest.raises(EngineError, match=f"engine '{engine}' cannot compute in 'bfloat16'"):
            choice.start_engine(weights, engine=engine, device="cpu", precision="bfloat16")
    with pytest.raises(EngineError, match="cannot compute in 'float16'"):
        choice.start_engine(weights, engine="native", precision="float16")


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)]
)
def test_a_containers_processor_limit_is_respected(limit, cores, monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(base, "CPU_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(base.os, "sched_getaffinity", lambda _: set(range(8)))
    assert base.count_usable_cores() == cores


def test_threads_are_described_in_words():
    assert [base.describe_threads(count) for count in (1, 2)] == ["1 thread", "2 threads"]


@pytest.mark.parametrize("kind", NATIVE[:1])
def test_a_forked_process_may_forget_the_native_engine(kind, weights):
    script = (
        "import os, sys; from pathlib import Path\n"
        "from model.engines.native_engine import NativeEngine\n"
        "from model.weights import SHIPPED_WEIGHTS, read_weights\n"
        "engine = NativeEngine(read_weights(SHIPPED_WEIGHTS), Path(sys.argv[1]), threads=2)\n"
        "child = os.fork()\n"
        "del engine\n"
        "if child: sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    path = native_library(kind)
    ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=REPOSITORY, timeout=60)
    assert ended.returncode == 0


def test_of_equal_scores_the_first_class_wins():
    scores = np.array([[1, 5, 2], [1, 5, 3], [0, 5, 3]], np.float32)
    assert argmax(scores).tolist() == [0, 0, 1]


def test_wrong_tensors_are_named(weights):
    tensors = dict(weights.tensors)
    del tensors["backbone.layer2.0.bn1.bias"]
    tensors["extra"] = np.zeros(1)
    tensors["final_conv.weight"] = np.zeros((21, 5, 1, 1))
    with pytest.raises(WeightsError) as caught:
        TorchEngine(Weights(tensors, weights.metadata, source="some.file"))
    for part in (
        "some.file",
        "layer2.0.bn1.bias is missing",
        "extra is unknown",
        "expected (21, 512, 1, 1)",
    ):
        assert part in str(caught.value)


def test_a_missing_device_is_refused():
    with pytest.raises(EngineError, match="unknown device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(EngineError, match="not supported"):
        choose_device("meta")
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(EngineError, match=missing):
        choose_device(missing)


def test_the_engine_is_chosen_by_what_is_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(choice, "has_cuda_gpu", lambda: False)
    monkeypatch.setattr(library, "find_library_or_warn", lambda: tmp_path)
    assert choice.choose("auto", "auto") == "native"
    assert choice.choose("auto", "cpu") == "native"
    assert choice.choose("torch", "cpu") == "torch"
    assert choice.choose("auto", "cuda:1") == "torch"
    monkeypatch.setattr(library, "find_library_or_warn", lambda: None)
    assert choice.choose("auto", "auto") == "ncnn"
    monkeypatch.setattr(choice, "has_cuda_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choice.choose("auto", "auto") == "torch"
    assert choice.choose("auto", "cpu") == "ncnn"
    for engine in ("native", "ncnn"):
        with pytest.raises(EngineError, match=f"'{engine}' runs on the CPU"):
            choice.choose(engine, "cuda")


def test_a_gpu_that_pytorch_cannot_use_is_left_out_with_a_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(choice, "has_cuda_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(library, "find_library_or_warn", lambda: tmp_path)
    assert choice.choose("auto", "auto") == "native"
    assert "there is an NVIDIA GPU, but the CPU is used, because PyTorch" in caplog.text


def test_an_unknown_engine_is_told_the_known_ones():
    with pytest.raises(EngineError, match="no engine 'nativ': choose one of auto, native, "):
        choice.choose("nativ", "auto")


def test_an_engine_that_is_not_installed_is_named(weights, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match="pip install ncnn"):
        choice.start_engine(weights, engine="ncnn")


@pytest.mark.parametrize(
    ("device", "gpus", "devices"),
    [
        ("auto", 0, ["auto", "auto", "auto"]),
        ("cuda", 0, ["cuda", "cuda", "cuda"]),  # which then says that there is none
        ("auto", 1, ["cuda:0", "cuda:0", "cuda:0"]),
        ("cuda", 2, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda:1", 2, ["cuda:1", "cuda:1", "cuda:1"]),
        ("cpu", 2, ["cpu", "cpu", "cpu"]),
    ],
)
def test_several_engines_share_the_gpus_evenly(device, gpus, devices):
    assert [choice.spread(device, number, gpus) for number in range(3)] == devices
