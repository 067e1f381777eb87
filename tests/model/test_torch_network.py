"""The network in PyTorch, and cuDNN's fused kernels, which only GPUs have, by their definition."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.engines import folding, torch_network
from model.engines.torch_network import TorchNetwork
from model.golden import compute_coarse_logits
from model.weights import read_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights(weights_file):
    return read_weights(weights_file)


@pytest.fixture(scope="module")
def images(photo):
    return torch.from_numpy(np.stack([photo[:64, :96], photo[50:114, 60:156]]))


def compute(weights, images):
    network = TorchNetwork(folding.fold(weights), weights.metadata, CPU)
    with torch.inference_mode():
        return network.coarse_logits(images).numpy()


def test_the_folded_normalisation_is_exact_up_to_the_border(weights, images):
    network = folding.fold(weights)
    levels = folding.normalise_levels(weights.metadata)
    for image, logits in zip(images.numpy(), compute(weights, images), strict=True):
        normalised = np.stack([levels[c][image[..., c]] for c in range(3)])
        expected = compute_coarse_logits(network, normalised)
        assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()


def test_the_fused_kernels_get_what_makes_the_same_network(weights, images, monkeypatch):
    expected = compute(weights, images)
    calls = []

    def add(x, kernel, added, alpha, bias, stride, padding, dilation, groups):
        calls.append("add")
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return (F.conv2d(x, kernel, bias, **options) + alpha * added).relu()

    def plain(x, kernel, bias, *options):
        calls.append("plain")
        return F.conv2d(x, kernel, bias, *options).relu()

    monkeypatch.setattr(torch_network, "can_fuse", lambda device, dtype: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", plain)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add)
    found = compute(weights, images)
    assert calls == 2 * ["plain", *["plain", "add"] * 8]  # once to try them
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_without_the_fused_kernels_it_computes_the_same(weights, images, monkeypatch, caplog):
    expected = compute(weights, images)
    # cuDNN has none of them for a CPU.
    monkeypatch.setattr(torch_network, "can_fuse", lambda device, dtype: True)
    assert np.array_equal(compute(weights, images), expected)
    assert "kernels of their own" in caplog.text


def refuse(kernel_side, error):
    """A stand-in for cuDNN that lacks the kernels of one size."""

    def convolve(x, kernel, bias, stride, padding, dilation, groups):
        if kernel.shape[-1] == kernel_side:
            raise error
        return F.conv2d(x, kernel, bias, stride, padding, dilation, groups).relu()

    return convolve


def add_relu(x, kernel, added, alpha, bias, *options):
    return (F.conv2d(x, kernel, bias, *options) + alpha * added).relu()


@pytest.fixture
def fused(monkeypatch):
    monkeypatch.setattr(torch_network, "can_fuse", lambda device, dtype: True)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    return monkeypatch


def test_one_missing_kernel_leaves_the_others(weights, images, fused, caplog):
    fused.setattr(torch, "cudnn_convolution_relu", refuse(0, None))
    expected = compute(weights, images)
    fused.setattr(torch, "cudnn_convolution_relu", refuse(7, RuntimeError("no engine")))
    found = compute(weights, images)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert caplog.text.count("no engine") == 1  # that of the stem, when they are tried out


def test_full_memory_does_not_mean_that_a_kernel_is_missing(weights, images, fused):
    error = torch.OutOfMemoryError("CUDA out of memory")
    fused.setattr(torch, "cudnn_convolution_relu", refuse(3, error))
    with pytest.raises(torch.OutOfMemoryError):
        compute(weights, images)
