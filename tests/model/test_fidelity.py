"""Our training compared with the book's loop.

Everything is float64. In float32, the book's own loop changes by a percent after five steps if
another processor, or another number of threads, sums in another order.
"""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from model.classes import PALETTE
from model.network import FCN
from model.training.loss import PixelLoss
from model.training.optimiser import group_parameters
from model.training.recipe import PRESETS
from tests.conftest import write_voc
from tests.model.test_train import read_rows, run

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
SIZE = (96, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    write_voc(folder, [SIZE] * 4)
    return folder


@pytest.fixture(scope="module")
def batch(folder):
    """The book's input and targets of all images: float64 (N, 3, H, W), int64 (N, H, W)."""
    root = folder / "VOCdevkit" / "VOC2012"
    names = (root / "ImageSets/Segmentation/train.txt").read_text().split()
    images = np.stack([read(root / "JPEGImages" / f"{name}.jpg") for name in names])
    colours = np.stack([read(root / "SegmentationClass" / f"{name}.png") for name in names])
    targets = np.zeros(colours.shape[:3], np.int64)  # a colour of no class, void, is background
    for index in range(21):
        targets[(colours == PALETTE[index]).all(axis=-1)] = index
    inputs = torch.from_numpy((images / 255 - MEAN) / STD).permute(0, 3, 1, 2)
    return inputs, torch.from_numpy(targets)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class BookLoop:
    """The book's training loop in its plainest form, on one batch that is the whole set."""

    def __init__(self, network):
        self.network = network.train()
        self.optimiser = torch.optim.SGD(network.parameters(), lr=0.001, weight_decay=1e-3)

    def step(self, inputs, targets):
        self.optimiser.zero_grad()
        logits = self.network(inputs)
        loss = F.cross_entropy(logits, targets, reduction="none").mean(1).mean(1)
        loss.sum().backward()
        self.optimiser.step()
        hits = (logits.argmax(1) == targets).sum()
        return loss.sum().item() / len(inputs), hits.item() / targets.numel()


class OurLoop:
    def __init__(self, network):
        recipe = PRESETS["d2l"]
        self.network = network.train()
        self.loss = PixelLoss(network, recipe, autocast=False)
        self.optimiser = torch.optim.SGD(
            group_parameters(network, recipe, frozenset()),
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )

    def step(self, inputs, targets):
        self.optimiser.zero_grad()
        loss, (hits, known) = self.loss(inputs, targets)
        loss.backward()
        self.optimiser.step()
        return loss.item() / len(inputs), hits.item() / known.item()


def same_network(notebook_network):
    """The notebook's network as ours: backbone's children by their torchvision names."""
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    network = FCN()
    state = {}
    for key, value in notebook_network.state_dict().items():
        child, _, rest = key.partition(".")
        state[f"backbone.{names[int(child)]}.{rest}" if child.isdigit() else key] = value
    network.load_state_dict(state)
    return network


def test_five_steps_of_d2l_in_float64_are_the_books(batch, notebook_network):
    """Losses, accuracies, and every gradient of every step."""
    book = BookLoop(copy.deepcopy(notebook_network).double())
    ours = OurLoop(same_network(notebook_network).double())
    losses = []
    for _ in range(5):
        loss, accuracy = book.step(*batch)
        assert ours.step(*batch) == (pytest.approx(loss, rel=1e-9), pytest.approx(accuracy))
        for one, other in zip(book.network.parameters(), ours.network.parameters(), strict=True):
            assert (one.grad - other.grad).abs().max() < 1e-9 * one.grad.abs().max()
        losses.append(loss)
    assert losses[0] > 1.2 * losses[-1], "a start from which something is learnt"


def test_three_steps_of_the_command_line_are_the_books(
    tmp_path, folder, batch, weights_file, notebook_network
):
    book = BookLoop(copy.deepcopy(notebook_network).double())
    losses, accuracies = zip(*[book.step(*batch) for _ in range(3)], strict=True)
    run("--data", folder, "--preset", "d2l", "--init", weights_file, "--epochs", 3,
        "--output", tmp_path / "w.safetensors", "--batch-size", 4, "--crop", *SIZE,
        "--workers", 0, "--val-image-set", "train")  # fmt: skip
    rows = read_rows(tmp_path / "w.history.csv")
    np.testing.assert_allclose([float(row["loss"]) for row in rows], losses, rtol=1e-3)
    found = [float(row["train_accuracy"]) for row in rows]
    np.testing.assert_allclose(found, accuracies, atol=1e-3)
