import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.network import FCN, bilinear_kernel
from model.training.tiles import (
    build_bilinear_matrix,
    build_upsampling_matrix,
    cut_tiles,
    gather_cells,
)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (10, 15)])
@pytest.mark.parametrize("architecture", ["fcn32s", "fcn16s", "fcn8s"])
def test_the_transposed_convolution_is_a_product_over_tiles(architecture, height, width):
    """Forward and backward in float32, compared with PyTorch in float64.

    PyTorch's own float32 gradient of the bias is off by 1e-5.
    """
    torch.manual_seed(0)
    network = FCN(5, architecture)
    up, side = network.transpose_conv, network.architecture.stride
    nn.init.normal_(up.weight)
    coarse = torch.randn(2, 5, height, width, requires_grad=True)
    leaves = (coarse, up.weight, up.bias)
    cells = gather_cells(coarse)
    scores = cells.flatten(2) @ build_upsampling_matrix(up.weight) + up.bias.repeat_interleave(
        side * side
    )
    by_class = scores.view(*cells.shape[:3], -1).transpose(1, 2)

    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits = F.conv_transpose2d(*exact, stride=side, padding=side // 2)
    down = torch.randn_like(logits)

    inside = cut_tiles(torch.ones(2, side * height, side * width), side, outside=0)[:, None]
    assert_close(by_class * inside, tiled_by_class(logits, side))
    found = torch.autograd.grad(by_class, leaves, tiled_by_class(down, side).float())
    for own, expected in zip(found, torch.autograd.grad(logits, exact, down), strict=True):
        assert_close(own, expected)


def tiled_by_class(logits, side):
    return torch.stack([cut_tiles(plane, side, outside=0) for plane in logits.unbind(dim=1)], dim=1)


def assert_close(found, expected):
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("side", [8, 16, 32])
def test_a_bilinear_tile_is_one_class_of_the_bilinear_kernels_matrix(side):
    matrix = build_upsampling_matrix(bilinear_kernel(3, 3, 2 * side)).view(3, 4, 3, -1)
    assert torch.equal(matrix[1, :, 1], build_bilinear_matrix(side))
    assert not matrix[1, :, 2].any()
