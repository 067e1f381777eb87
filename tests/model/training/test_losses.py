"""The options of the loss besides plain cross entropy, each compared with a plain version."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from model.network import FCN
from model.training.loss import PixelLoss
from model.training.pixel_weights import find_boundaries, keep_hardest
from model.training.recipe import PRESETS
from model.training.region_loss import dice, lovasz, region_loss

RECIPE = PRESETS["default"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return FCN(num_classes=3).eval()


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(1)
    images, target = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    target[0, :9] = 255
    return images, target


def test_class_weights_are_pytorchs(network, batch):
    images, target = batch
    weights = (0.2, 1.0, 3.0)
    loss, _ = PixelLoss(network, replace(RECIPE, class_weights=weights), autocast=False)(*batch)
    expected = F.cross_entropy(
        network(images), target, weight=torch.tensor(weights), ignore_index=255
    )
    torch.testing.assert_close(loss, expected)


def test_pixels_at_a_boundary_have_its_weight(network, batch):
    images, target = batch
    target = torch.zeros_like(target)
    target[0, :, 40:], target[1] = 2, 255
    recipe = replace(RECIPE, boundary_weight=5.0)
    loss, _ = PixelLoss(network, recipe, autocast=False)(images, target)
    every = F.cross_entropy(network(images), target, ignore_index=255, reduction="none")[0]
    weights = torch.ones(64, 64)
    weights[:, 32:48] = 5
    torch.testing.assert_close(loss, (every * weights).sum() / weights.sum())


def test_boundaries_are_between_known_classes_in_a_square_around_the_pixel():
    target = torch.full((1, 40, 40), 255)
    target[0, 20, 4:30] = torch.arange(26) // 13
    target[0, 0, 0] = 2
    boundaries = find_boundaries(target)[0]
    for y, x in ((20, 9), (12, 17), (28, 17), (20, 24)):  # columns 16 and 17 differ
        assert boundaries[y, x], (y, x)
    for y, x in ((20, 8), (11, 17), (29, 17), (20, 25), (0, 0)):
        assert not boundaries[y, x], (y, x)


@pytest.mark.parametrize("stride", [2, 8])
def test_a_stride_takes_some_pixels_of_the_target_and_their_logits(batch, stride):
    torch.manual_seed(2)
    network, (images, target) = FCN(num_classes=3).eval(), batch
    recipe = replace(RECIPE, loss_stride=stride)
    every = (..., slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    near, (_, known) = PixelLoss(network, recipe, autocast=False)(*batch)
    assert known == (target[every] != 255).sum()
    expected = F.cross_entropy(network(images)[every], target[every], ignore_index=255)
    torch.testing.assert_close(near, expected, rtol=0.05, atol=0)  # half a pixel aside

    with torch.no_grad():
        network.transpose_conv.weight.add_(0.01 * torch.randn(network.transpose_conv.weight.shape))
    exact, _ = PixelLoss(network, recipe, autocast=False)(*batch)
    expected = F.cross_entropy(network(images)[every], target[every], ignore_index=255)
    torch.testing.assert_close(exact, expected)


def test_the_hardest_pixels_of_each_image_count(network, batch):
    images, target = batch
    loss, _ = PixelLoss(network, replace(RECIPE, hard_share=0.25), autocast=False)(*batch)
    every = F.cross_entropy(network(images), target, ignore_index=255, reduction="none")
    kept = []
    for own, label in zip(every, target, strict=True):
        known = own[label != 255].sort(descending=True).values
        kept.append(known[: len(known) // 4])
    torch.testing.assert_close(loss, torch.cat(kept).mean())


def test_an_image_that_is_all_void_has_no_hard_pixels():
    assert not keep_hardest(torch.zeros(4, dtype=torch.bool), torch.zeros(4), 0.5).any()


def test_dice_of_sets_is_dice():
    probability = torch.tensor([1.0, 1, 0, 0, 1])
    foreground = torch.tensor([1.0, 0, 0, 1, 1])
    assert dice(probability, foreground).item() == pytest.approx(1 - 2 * 2 / (3 + 3))
    assert dice(foreground, foreground).item() == 0


def test_lovasz_of_sets_is_the_lost_iou():
    """At the corners of the cube the extension is the set function itself."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        predicted, wanted = rng.random(12) < 0.5, rng.random(12) < 0.5
        wanted[0] = True
        iou = (predicted & wanted).sum() / (predicted | wanted).sum()
        found = lovasz(torch.tensor(predicted).float(), torch.tensor(wanted).float())
        assert found.item() == pytest.approx(1 - iou, abs=1e-6)


@pytest.mark.parametrize("kind", ["dice", "lovasz"])
def test_a_region_loss_falls_where_the_target_is_predicted(kind):
    target = torch.zeros(2, 64, 64, dtype=torch.uint8)
    target[0, :32], target[1] = 2, 255
    right = torch.full((2, 3, 2, 2), -20.0)
    right[0, 2, 0], right[0, 0, 1] = 20, 20
    wrong = right.flip(2)
    unsure = torch.zeros(2, 3, 2, 2, requires_grad=True)
    losses = [region_loss(logits, target, kind) for logits in (right, unsure, wrong)]
    assert losses[0] < losses[1] < losses[2]
    losses[1].backward()
    assert unsure.grad[0].abs().sum() > 0
    assert unsure.grad[1].abs().sum() == 0, "all void"


def test_a_region_loss_is_added_with_its_weight(network, batch):
    images, target = batch

    def loss(**options):
        return PixelLoss(network, replace(RECIPE, **options), autocast=False)(*batch)[0]

    region = region_loss(network.coarse_logits(images), target, "lovasz")
    found = loss(region_loss="lovasz", region_weight=0.5)
    torch.testing.assert_close(found, loss() + 0.5 * region)
