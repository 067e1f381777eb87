"""Fixtures that tests share: a photo, weights, a small VOC folder, the notebook's network."""

from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

from model.classes import PALETTE
from model.convert import convert
from model.engines.base import count_usable_cores
from model.network import bilinear_kernel

REPOSITORY = Path(__file__).parent.parent
SHARED = REPOSITORY.parent / "shared"
PHOTO = REPOSITORY / "docs" / "images" / "cat.jpg"


def pytest_configure() -> None:
    torch.set_num_threads(min(2, count_usable_cores()))  # two on one core wait for each other
    # The same examples in every run; `make fuzz` is what looks for new ones.
    hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("repeatable")


def build_notebook_network(seed: int = 0) -> nn.Sequential:
    """The teaching notebook's network, built from the book and not with our code."""
    torch.manual_seed(seed)
    network = nn.Sequential(*list(resnet18().children())[:-2])
    network.add_module("final_conv", nn.Conv2d(512, 21, kernel_size=1))
    network.add_module(
        "transpose_conv", nn.ConvTranspose2d(21, 21, kernel_size=64, padding=16, stride=32)
    )
    network.transpose_conv.weight.data.copy_(bilinear_kernel(21, 21, 64))
    # As after some training, the statistics of batch norms are not zero and one.
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(2, 3, 64, 64))
        network.transpose_conv.weight.add_(torch.randn(21, 21, 64, 64) * 0.02)
    return network.eval()


@pytest.fixture(scope="session")
def notebook_network() -> nn.Sequential:
    return build_notebook_network()


@pytest.fixture(scope="session")
def weights_file(notebook_network: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file with the notebook network's tensors: trained kernel, 21 classes."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(notebook_network.state_dict(), folder / "notebook.pth")
    convert(folder / "notebook.pth", folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """The repository's test photo, (300, 451, 3)."""
    return np.asarray(Image.open(PHOTO).convert("RGB"))


def write_voc(
    folder: Path, sizes: list[tuple[int, int]], *, image_set: str = "train", seed: int = 0
) -> list[str]:
    """A VOC folder with images of these (height, width): rectangles with void borders."""
    rng = np.random.default_rng(seed)
    root = folder / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True, exist_ok=True)
    names = []
    for number, (height, width) in enumerate(sizes):
        target = np.zeros((height, width), np.uint8)
        for _ in range(2):
            label = int(rng.integers(1, 21))
            top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
            bottom, right = top + height // 3 + 2, left + width // 3 + 2
            target[top:bottom, left:right] = 255
            target[top + 1 : bottom - 1, left + 1 : right - 1] = label
        noise = rng.integers(-20, 20, (height, width, 3))
        image = np.clip(
            PALETTE[np.where(target == 255, 0, target)].astype(int) + 60 + noise, 0, 255
        )
        name = f"{image_set}_{number:04d}"
        names.append(name)
        Image.fromarray(image.astype(np.uint8)).save(
            root / "JPEGImages" / f"{name}.jpg", quality=95
        )
        mask = Image.fromarray(target)
        mask.putpalette(PALETTE.tobytes())
        mask.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / f"{image_set}.txt").write_text("\n".join(names) + "\n")
    return names


@pytest.fixture(scope="session")
def voc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images to train on and four to validate on, 60 to 90 pixels wide."""
    folder = tmp_path_factory.mktemp("voc")
    write_voc(folder, [(60 + 5 * (i % 4), 70 + 3 * i) for i in range(12)], image_set="train")
    write_voc(folder, [(64, 96), (75, 66), (80, 80), (70, 90)], image_set="val", seed=1)
    return folder
