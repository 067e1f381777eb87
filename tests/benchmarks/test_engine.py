from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.engine import count_multiply_adds, load_network, prepare_eager, replace_kernel
from benchmarks.notebook import load_notebook_network
from benchmarks.photos import decode_photo, make_photos
from model.engines.tiles import is_bilinear
from model.network import FCN
from model.predictor import open_predictor
from model.state_dict import list_tensors
from model.weights import SHIPPED_WEIGHTS, Weights, read_weights


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

    network = load_notebook_network(weights)
    for module in network.modules():
        module.register_forward_hook(count)
    assert count_multiply_adds(network, size) == counted > 0


def test_the_eager_network_and_the_predictor_make_the_same_masks(weights):
    predictor = open_predictor(SHIPPED_WEIGHTS, device="cpu")
    images = [decode_photo(photo) for photo in make_photos(2, (96, 128))]
    masks = prepare_eager(load_notebook_network(weights), weights)(images)
    for image, mask in zip(images, masks, strict=True):
        assert np.mean(predictor(image) == mask) >= 0.999


def test_any_architecture_is_measured_against_its_own_network(weights):
    torch.manual_seed(0)
    network = FCN(21, "fcn8s").eval()
    metadata = replace(weights.metadata, architecture=network.architecture.identifier)
    finer = Weights(list_tensors(network), metadata)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(load_network(finer)(images), network(images))
    assert torch.equal(
        load_network(weights).final_conv.weight, torch.tensor(weights.tensors["final_conv.weight"])
    )


def test_the_dense_kernel_is_dense_and_the_bilinear_one_is_not(weights):
    name = "transpose_conv.weight"
    assert np.all(replace_kernel(weights, "dense").tensors[name] != 0)
    assert is_bilinear(replace_kernel(weights, "bilinear").tensors[name].astype(np.float32))
