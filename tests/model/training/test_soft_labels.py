from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from model.errors import DatasetError
from model.network import FCN
from model.training.loss import PixelLoss, soft_cross_entropy
from model.training.recipe import PRESETS
from model.training.soft_labels import SoftLabels, label_images, soften


def write(folder, name, probabilities):
    np.savez_compressed(folder / f"{name}.npz", probabilities=probabilities)


def test_soft_labels_are_read_by_the_image_name(tmp_path):
    probabilities = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    write(tmp_path, "a", probabilities)
    labels = SoftLabels(tmp_path, {"a": (20, 33)}, num_classes=4)
    assert np.array_equal(labels.read("a"), probabilities)


@pytest.mark.parametrize(
    "probabilities",
    [
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((3, 5, 3), np.uint8),
        np.zeros((3, 5, 4), np.float32),
    ],
)
def test_soft_labels_of_another_shape_are_refused(tmp_path, probabilities):
    write(tmp_path, "a", probabilities)
    with pytest.raises(DatasetError, match=r"a\.npz: expected uint8 of shape \(3, 5, 4\)"):
        SoftLabels(tmp_path, {"a": (20, 33)}, num_classes=4)


@pytest.mark.parametrize("content", [None, b"", b"nonsense", b"PK\x03\x04"])
def test_a_file_that_holds_no_soft_labels_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.npz cannot be read"):
        SoftLabels(tmp_path, {"a": (20, 33)}, num_classes=4)


def test_a_pickle_in_a_file_of_soft_labels_is_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", probabilities=np.array([[[{}]]], dtype=object))
    with pytest.raises(DatasetError, match="cannot be read"):
        SoftLabels(tmp_path, {"a": (8, 8)}, num_classes=1)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_soft_loss_is_hintons(temperature):
    """Compared cell by cell in float64. Cells without a distribution do not count."""
    torch.manual_seed(0)
    coarse = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    probabilities = torch.rand(2, 8, 8, 3, dtype=torch.float64)
    probabilities /= probabilities.sum(dim=3, keepdim=True)
    probabilities[0, :4] = 0
    framed = F.pad(coarse, (1, 1, 1, 1))
    logits = F.interpolate(framed, scale_factor=4, mode="bilinear")[:, :, 4:-4, 4:-4]
    losses = []
    for image, row, column in np.ndindex(2, 8, 8):
        teacher = probabilities[image, row, column]
        if teacher.sum() > 0:
            teacher = teacher ** (1 / temperature)
            teacher /= teacher.sum()
            student = (logits[image, :, row, column] / temperature).log_softmax(0)
            losses.append(-(temperature**2) * (teacher * student).sum())
    total, cells = soft_cross_entropy(coarse, probabilities, temperature)
    torch.testing.assert_close(total, torch.stack(losses).sum())
    assert cells == len(losses)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_masks_and_soft_labels_share_the_loss(weight):
    torch.manual_seed(0)
    network = FCN(num_classes=3).eval()
    images, target = torch.randn(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    probabilities = torch.full((2, 8, 8, 3), 1 / 3)

    def loss(recipe, *soft):
        value, _ = PixelLoss(network, recipe, autocast=False)(images, target, *soft)
        return value

    recipe = PRESETS["default"]
    coarse = network.coarse_logits(images)
    total, cells = soft_cross_entropy(coarse, probabilities, 1)
    expected = (1 - weight) * loss(recipe) + weight * total / cells
    found = loss(replace(recipe, soft_weight=weight), probabilities)
    torch.testing.assert_close(found, expected)


def test_logits_become_means_over_cells(tmp_path):
    """Means of the softmax at the image's size, also if the image is higher than a band."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (600, 33, 4)).astype(np.float32)
    powers = np.exp(logits.astype(np.float64))
    probabilities = powers / powers.sum(axis=2, keepdims=True)
    found = soften(logits, (600, 33))
    assert found.shape == (75, 5, 4)
    for row, column in np.ndindex(75, 5):
        cell = probabilities[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert np.abs(found[row, column] - 255 * cell.mean(axis=(0, 1))).max() <= 0.51


def test_logits_are_scaled_to_the_image_alike_in_every_band():
    logits = np.random.default_rng(1).normal(0, 2, (40, 9, 2)).astype(np.float32)
    whole = [
        np.asarray(Image.fromarray(logits[..., c]).resize((30, 700), Image.Resampling.BILINEAR))
        for c in range(2)
    ]
    expected = soften(np.stack(whole, axis=2), (700, 30))
    found = soften(logits, (700, 30))
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("answer", [np.zeros((3, 4)), np.full((3, 4, 2), np.nan)])
def test_a_teacher_that_answers_no_logits_is_refused(tmp_path, photo, answer):
    Image.fromarray(photo).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a\.png: the teacher answered an array of shape"):
        label_images({"a": tmp_path / "a.png"}, lambda image: answer, tmp_path / "soft")
    assert not (tmp_path / "soft").exists()
