"""The contract of `model.engines.base`, for every engine, against float32 PyTorch done plainly."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from model.engines import choice
from model.engines.base import Region
from model.engines.folding import Convolution, FoldedNetwork
from model.engines.ncnn_engine import NcnnEngine
from model.engines.numpy_head import NumpyHead, argmax
from model.engines.torch_engine import TorchEngine, choose_device
from model.engines.torch_head import TorchHead
from model.errors import EngineError, WeightsError
from model.predictor import open_predictor
from model.weights import Weights, read_weights

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


@pytest.fixture(scope="module", params=["torch", "ncnn"])
def engine(weights, request):
    return TorchEngine(weights, device="cpu") if request.param == "torch" else NcnnEngine(weights)


def head_of(kind, kernel, bias):
    """A function from coarse logits (C, h, w) and a region to a mask, all numpy."""
    nothing = Convolution(np.zeros((1, 1, 1, 1)), np.zeros(1), 1)
    network = FoldedNetwork(nothing, (), nothing, kernel.numpy(), bias.numpy())
    if kind == "numpy":
        head = NumpyHead(network)
        return lambda coarse, region: head(coarse.numpy(), region)
    torch_head = TorchHead(network, torch.device("cpu"))
    return lambda coarse, region: torch_head(coarse, region).numpy()


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


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("classes", [2, 21])
@pytest.mark.parametrize("output", [(90, 120), (96, 128), (1, 1), (33, 128)])
def test_the_head_equals_transposed_convolution_and_argmax(kind, classes, output):
    torch.manual_seed(0)
    kernel, bias = torch.randn(classes, classes, 64, 64), torch.randn(classes)
    coarse = torch.randn(classes, 3, 4)
    logits = F.conv_transpose2d(coarse[None], kernel, bias, stride=32, padding=16)[0]
    expected = logits[:, : output[0], : output[1]].argmax(dim=0)
    mask = head_of(kind, kernel, bias)(coarse, Region(output, output))
    assert np.mean(mask == expected.numpy()) >= 0.9999


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("output", [(200, 300), (91, 121), (90, 500), (45, 60), (2000, 130)])
def test_the_head_reads_a_scaled_mask_from_interpolated_logits(kind, output):
    torch.manual_seed(0)
    kernel, bias = torch.randn(21, 21, 64, 64), torch.randn(21)
    coarse = torch.randn(21, 3, 4)
    logits = F.conv_transpose2d(coarse[None], kernel, bias, stride=32, padding=16)
    expected = F.interpolate(logits[:, :, :90, :120], output, mode="bilinear", align_corners=False)[
        0
    ].argmax(dim=0)
    mask = head_of(kind, kernel, bias)(coarse, Region((90, 120), output))
    assert np.mean(mask == expected.numpy()) >= 0.999


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_a_wide_mask_is_read_in_several_sweeps(kind, monkeypatch):
    torch.manual_seed(0)
    head = head_of(kind, torch.randn(3, 3, 64, 64), torch.randn(3))
    coarse, region = torch.randn(3, 3, 4), Region((90, 120), (70, 301))
    at_once = head(coarse, region)
    monkeypatch.setattr("model.engines.tiles.COLUMNS_AT_ONCE", 100)
    assert np.array_equal(head(coarse, region), at_once)


def test_of_equal_scores_the_first_class_wins():
    scores = np.array([[1, 5, 2], [1, 5, 3], [0, 5, 3]], np.float32)
    assert argmax(scores).tolist() == [0, 0, 1]


def test_wrong_tensors_are_named(weights):
    tensors = dict(weights.tensors)
    del tensors["backbone.layer2.0.bn1.bias"]
    tensors["extra"] = np.zeros(1)
    tensors["final_conv.weight"] = np.zeros((21, 5, 1, 1))
    with pytest.raises(WeightsError) as caught:
        TorchEngine(Weights(tensors, weights.metadata, source="some.file"), device="cpu")
    for part in (
        "some.file",
        "layer2.0.bn1.bias is missing",
        "extra is unknown",
        "expected (21, 512, 1, 1)",
    ):
        assert part in str(caught.value)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(EngineError, match="unknown device 'gpu'"):
        choose_device("gpu")
    with pytest.raises(EngineError, match="not supported"):
        choose_device("meta")
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    with pytest.raises(EngineError, match=missing):
        choose_device(missing)


def test_the_engine_is_chosen_by_what_is_there(monkeypatch):
    monkeypatch.setattr(choice, "has_cuda_gpu", lambda: False)
    assert choice.choose("auto", "auto") == "ncnn"
    assert choice.choose("auto", "cpu") == "ncnn"
    assert choice.choose("torch", "cpu") == "torch"
    assert choice.choose("auto", "cuda:1") == "torch"
    monkeypatch.setattr(choice, "has_cuda_gpu", lambda: True)
    assert choice.choose("auto", "auto") == "torch"
    assert choice.choose("auto", "cpu") == "ncnn"
    with pytest.raises(EngineError, match="'ncnn' runs on the CPU"):
        choice.choose("ncnn", "cuda")


def test_an_engine_that_is_not_installed_is_named(weights, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda _: None)
    with pytest.raises(EngineError, match="pip install ncnn"):
        choice.start_engine(weights, engine="ncnn")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_gpu_agrees_with_the_cpu(weights_file, photo):
    on_gpu = open_predictor(weights_file, device="cuda")
    on_cpu = open_predictor(weights_file, device="cpu")
    assert np.mean(on_gpu(photo) == on_cpu(photo)) >= 0.999
