import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from model.architectures import ARCHITECTURES
from model.network import FCN, bilinear_kernel, bilinear_upsampling, upsample_bilinear
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
        upsample_bilinear(coarse, 32), network.transpose_conv(coarse), rtol=0, atol=3e-6
    )


@pytest.mark.parametrize(("name", "stride"), [("fcn32s", 32), ("fcn16s", 16), ("fcn8s", 8)])
def test_each_architecture_has_coarse_logits_of_its_stride(name, stride):
    network, images = FCN(5, name).eval(), torch.zeros(2, 3, 96, 160)
    assert network.architecture.stride == stride
    assert network.coarse_logits(images).shape == (2, 5, 96 // stride, 160 // stride)
    assert network(images).shape == (2, 5, 96, 160)


@pytest.mark.parametrize("name", ["fcn16s", "fcn8s"])
def test_a_finer_network_starts_with_the_coarse_logits_enlarged_in_steps(name):
    torch.manual_seed(0)
    coarser, finer = FCN(5).eval(), FCN(5, name).eval()
    missing = finer.load_state_dict(
        {k: v for k, v in coarser.state_dict().items() if k != "transpose_conv.weight"},
        strict=False,
    ).missing_keys
    assert {key.split(".")[0] for key in missing} == {"skip_convs", "doublings", "transpose_conv"}
    images = torch.randn(1, 3, 192, 224)
    expected = coarser.coarse_logits(images)
    for _ in finer.architecture.skips:
        expected = upsample_bilinear(expected, 2)
    torch.testing.assert_close(finer.coarse_logits(images), expected)


def test_each_skip_adds_its_layers_own_logits():
    """The paper's figure 3, written out with other operations."""
    torch.manual_seed(0)
    network = FCN(3, "fcn8s").eval().double()
    for parameter in (*network.skip_convs.parameters(), *network.doublings.parameters()):
        nn.init.normal_(parameter)
    images = torch.randn(1, 3, 64, 96).double()
    layer2 = network.backbone[:6](images)
    layer3 = network.backbone.layer3(layer2)
    layer4 = network.backbone.layer4(layer3)
    coarse = network.final_conv(layer4)
    for name, features in (("layer3", layer3), ("layer2", layer2)):
        skip, kernel = network.skip_convs[name], network.doublings[name].weight
        doubled = F.conv_transpose2d(coarse, kernel, stride=2, padding=1)
        classified = torch.einsum("ncyx,kc->nkyx", features, skip.weight[:, :, 0, 0])
        coarse = doubled + classified + skip.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(network.coarse_logits(images), coarse)
    torch.testing.assert_close(network.coarse_logits(layer2, first=6), coarse)
    torch.testing.assert_close(network(images), network.transpose_conv(coarse))


def test_the_notebooks_network_has_the_tensors_that_it_always_had():
    fine = [name for name in FCN().state_dict() if not name.startswith("backbone.")]
    assert fine == [
        f"{n}.{p}" for n in ("final_conv", "transpose_conv") for p in ("weight", "bias")
    ]
    assert ARCHITECTURES["fcn32s"].identifier == "fcn_resnet18"
