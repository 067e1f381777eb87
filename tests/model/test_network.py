import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

from model.errors import NetworkError
from model.network import (
    FCN,
    bilinear_kernel,
    bilinear_tile,
    bilinear_upsampling,
    convert_notebook_state,
    load_backbone,
    network_from_state,
    read_state_dict,
    tile_cells,
    tile_matrix,
    tiled,
    upsample_bilinear,
)
from tests.conftest import PHOTO


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 16, 63, 64])
def test_the_bilinear_kernel_is_a_product_of_two_ramps(size):
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    kernel = bilinear_kernel(3, 3, size)
    for row in range(size):
        for column in range(size):
            expected = (1 - abs(row - centre) / factor) * (1 - abs(column - centre) / factor)
            assert kernel[1, 1, row, column] == pytest.approx(expected)
    assert not kernel[0, 1].any()
    assert not kernel[2, 0].any()


def test_the_bilinear_kernel_may_have_more_outputs_than_inputs():
    kernel = bilinear_kernel(2, 5, 4)
    assert kernel.shape == (2, 5, 4, 4)
    assert torch.equal(kernel.any(dim=3).any(dim=2), torch.eye(2, 5, dtype=torch.bool))


def test_a_photo_is_doubled_as_in_the_notebook():
    photo = Image.open(PHOTO).convert("RGB").resize((728, 561))
    image = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)[None] / 255
    doubling = bilinear_upsampling(3, 2)
    assert (doubling.kernel_size, doubling.stride, doubling.padding) == ((4, 4), (2, 2), (1, 1))
    doubled = doubling(image).detach()
    assert doubled.shape == (1, 3, 1122, 1456)
    expected = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    inside = np.s_[..., 1:-1, 1:-1]  # at the border it interpolates towards zero
    torch.testing.assert_close(doubled[inside], expected[inside])


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 32])
def test_upsampling_by_any_factor_equals_interpolation_inside(factor):
    image = torch.rand(1, 2, 6, 5)
    expected = F.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)
    inside = np.s_[..., factor:-factor, factor:-factor]
    torch.testing.assert_close(bilinear_upsampling(2, factor)(image)[inside], expected[inside])


def test_logits_have_the_size_of_the_image():
    network = FCN().eval()
    images = torch.zeros(1, 3, 320, 480)
    assert network.backbone(images).shape == (1, 512, 10, 15)
    assert network(images).shape == (1, 21, 320, 480)


def test_a_fresh_network_upsamples_bilinearly():
    network = FCN(num_classes=4)
    nn.init.zeros_(network.transpose_conv.bias)
    coarse = torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(
        upsample_bilinear(coarse), network.transpose_conv(coarse), rtol=0, atol=3e-6
    )


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (10, 15)])
def test_the_transposed_convolution_is_a_product_over_tiles(height, width):
    """Forward and backward, in float32: beside PyTorch's own in float64, whose bias sums are exact.

    (Its float32 gradient of the bias is off by 1e-5.)
    """
    torch.manual_seed(0)
    up = FCN(num_classes=5).transpose_conv
    nn.init.normal_(up.weight)
    coarse = torch.randn(2, 5, height, width, requires_grad=True)
    leaves = (coarse, up.weight, up.bias)
    cells = tile_cells(coarse)
    scores = cells.flatten(2) @ tile_matrix(up.weight) + up.bias.repeat_interleave(32 * 32)
    by_class = scores.view(*cells.shape[:3], -1).transpose(1, 2)

    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits = F.conv_transpose2d(*exact, stride=32, padding=16)
    down = torch.randn_like(logits)

    inside = tiled(torch.ones(2, 32 * height, 32 * width), outside=0)[:, None]
    assert_close(by_class * inside, tiled_by_class(logits))
    found = torch.autograd.grad(by_class, leaves, tiled_by_class(down).float())
    for own, expected in zip(found, torch.autograd.grad(logits, exact, down), strict=True):
        assert_close(own, expected)


def tiled_by_class(logits):
    return torch.stack([tiled(plane, outside=0) for plane in logits.unbind(dim=1)], dim=1)


def assert_close(found, expected):
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()


def test_a_bilinear_tile_is_one_class_of_the_bilinear_kernels_matrix():
    matrix = tile_matrix(bilinear_kernel(3, 3, 64)).view(3, 4, 3, -1)
    assert torch.equal(matrix[1, :, 1], bilinear_tile())
    assert not matrix[1, :, 2].any()


def test_the_notebooks_state_dict_converts_and_predicts_the_same(notebook_network):
    images = torch.randn(2, 3, 96, 128)
    for prefix in ("", "module.", "_orig_mod."):
        state = {prefix + name: t for name, t in notebook_network.state_dict().items()}
        network = network_from_state(convert_notebook_state(state), source="test")
        with torch.no_grad():
            assert torch.equal(network(images), notebook_network(images))


def test_a_wrong_state_dict_is_refused_with_every_difference(notebook_network):
    state = convert_notebook_state(notebook_network.state_dict())
    del state["backbone.bn1.weight"]
    state["extra"] = torch.zeros(1)
    state["final_conv.bias"] = torch.zeros(7)
    with pytest.raises(NetworkError) as caught:
        network_from_state(state, source="some.pth")
    message = str(caught.value)
    for part in (
        "some.pth",
        "backbone.bn1.weight is missing",
        "extra is unknown",
        "final_conv.bias has shape (7,), expected (21,)",
    ):
        assert part in message


def test_an_incomplete_backbone_is_loaded_and_reported():
    full = resnet18().state_dict()
    partial = {name: t for name, t in full.items() if not name.startswith("layer4.1")}
    network = FCN()
    before = network.backbone.layer4[1].conv1.weight.clone()
    report = load_backbone(network, partial, source="partial.safetensors")
    assert torch.equal(network.backbone.conv1.weight, full["conv1.weight"])
    assert torch.equal(network.backbone.layer4[1].conv1.weight, before)
    assert "layer4.1.conv1.weight" in report.missing
    assert set(report.ignored) == {"fc.weight", "fc.bias"}
    assert len(report.loaded) + len(report.missing) == len(network.backbone.state_dict())
    assert "layer4.1.conv1.weight" in str(report)
    assert "fc.weight" in str(report)


def test_a_backbone_of_another_network_is_refused():
    with pytest.raises(NetworkError, match=r"conv1\.weight has shape \(1,\), ResNet-18 expects"):
        load_backbone(FCN(), {"conv1.weight": torch.zeros(1)}, source="x")
    with pytest.raises(NetworkError, match="no tensor with a ResNet-18 name"):
        load_backbone(FCN(), {"a": torch.zeros(1)}, source="x")


def test_a_pickled_module_is_not_loaded(notebook_network, tmp_path):
    torch.save(notebook_network, tmp_path / "module.pth")
    with pytest.raises(NetworkError, match=r"net\.state_dict\(\)"):
        read_state_dict(tmp_path / "module.pth")
    with pytest.raises(NetworkError, match="no such file"):
        read_state_dict(tmp_path / "nothing.pth")
