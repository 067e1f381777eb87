import numpy as np
import pytest
import torch

from benchmarks.engine import decoded, eager_segmentation, multiply_adds, with_kernel
from benchmarks.notebook import notebook_network
from benchmarks.report import in_turns, table
from model.engines.tiles import is_bilinear
from model.predictor import open_predictor
from model.weights import SHIPPED_WEIGHTS, read_weights


@pytest.fixture(scope="module")
def weights():
    return read_weights(SHIPPED_WEIGHTS)


@pytest.mark.parametrize("size", [(64, 96), (320, 480)])
def test_the_floor_counts_every_multiply_add_of_the_network(weights, size):
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        if isinstance(module, torch.nn.ConvTranspose2d):
            counted += inputs[0][0, 0].numel() * module.weight.numel()
        elif isinstance(module, torch.nn.Conv2d):
            counted += output[0, 0].numel() * module.weight.numel()

    network = notebook_network(weights)
    for module in network.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, *size))
    assert multiply_adds(size, len(weights.metadata.classes)) == counted


def test_the_eager_network_and_the_predictor_make_the_same_mask(weights):
    predictor = open_predictor(SHIPPED_WEIGHTS, device="cpu")
    canvas = predictor.prepare(decoded((96, 128)))
    expected = eager_segmentation(notebook_network(weights), weights, canvas.pixels)()
    assert np.mean(predictor.predict([canvas])[0] == expected) >= 0.999


def test_the_dense_kernel_is_dense_and_the_bilinear_one_is_not(weights):
    name = "transpose_conv.weight"
    assert np.all(with_kernel(weights, "dense").tensors[name] != 0)
    assert is_bilinear(with_kernel(weights, "bilinear").tensors[name].astype(np.float32))


def test_candidates_take_turns_and_the_warm_up_does_not_count():
    order = []
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert "".join(order) == "abababab"
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_a_table_is_markdown():
    assert table([{"size": "1 x 2", "ms": 0.12345}, {"size": "3 x 4", "ms": 123.4}]) == (
        "| size | ms |\n|---|---|\n| 1 x 2 | 0.123 |\n| 3 x 4 | 123 |"
    )
