"""The teaching notebook's network, data and training loop in plain PyTorch, to compare with ours.

It uses nothing of this project but the trained weights, the colours and the bilinear kernel.
"""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, read_image
from torchvision.models import resnet18
from torchvision.transforms import RandomCrop
from torchvision.transforms.functional import crop, normalize

from model.classes import CLASSES, PALETTE
from model.engines.base import Size
from model.network import bilinear_kernel
from model.training.recipe import Recipe
from model.training.samples import Sample
from model.weights import Weights

WORKERS = 4
"""The number of processes of the notebook's loader, on every machine."""


def build_notebook_network(classes: int = 21) -> nn.Sequential:
    """Build the notebook's network; its backbone has random weights."""
    network = nn.Sequential(*list(resnet18().children())[:-2])
    network.add_module("final_conv", nn.Conv2d(512, classes, kernel_size=1))
    upsampling = nn.ConvTranspose2d(classes, classes, kernel_size=64, padding=16, stride=32)
    upsampling.weight.data.copy_(bilinear_kernel(classes, classes, 64))
    network.add_module("transpose_conv", upsampling)
    return network


def load_notebook_network(weights: Weights) -> nn.Sequential:
    """Return the network in evaluation mode: normalised (N, 3, H, W) to logits (N, C, H, W)."""
    network = build_notebook_network(len(weights.metadata.classes))
    names = [name for name, _ in resnet18().named_children()]
    state = {}
    for name, array in weights.tensors.items():
        for position, child in enumerate(names):
            name = name.replace(f"backbone.{child}.", f"{position}.")
        state[name] = torch.tensor(array)
    network.load_state_dict(state)
    return network.eval()


class NotebookImages(Dataset[tuple[Tensor, Tensor]]):
    """All images in memory, normalised. Masks are kept in colours and looked up for each crop."""

    def __init__(self, samples: Sequence[Sample], size: Size) -> None:
        self.size = size
        self.images = [normalize_images(read_image(str(one.image_path))) for one in samples]
        self.masks = [read_image(str(one.mask_path), ImageReadMode.RGB) for one in samples]
        self.index_of = torch.zeros(256**3, dtype=torch.long)  # so void counts as background
        for index, (red, green, blue) in enumerate(PALETTE[: len(CLASSES)].tolist()):
            self.index_of[(red * 256 + green) * 256 + blue] = index

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.images[index], self.masks[index]
        window = RandomCrop.get_params(image, self.size)
        red, green, blue = crop(mask, *window).long()
        return crop(image, *window), self.index_of[(red * 256 + green) * 256 + blue]


def normalize_images(images: Tensor) -> Tensor:
    """RGB (..., 3, H, W) uint8 to the network's float32 input."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normalised: Tensor = normalize(images.float() / 255, mean, std)
    return normalised


class NotebookLoop:
    """The notebook's loop on one device: float32, channels first, a loss for every pixel."""

    def __init__(self, network: nn.Sequential, images: NotebookImages, recipe: Recipe) -> None:
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than the cores
        self.network = network
        self.loader = DataLoader(
            images, recipe.batch_size, shuffle=True, drop_last=True, num_workers=WORKERS
        )
        self.optimiser = torch.optim.SGD(
            network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
        )

    def train_epoch(self) -> None:
        for images, target in self.loader:
            self.train_step(images, target)

    def train_step(self, images: Tensor, target: Tensor) -> tuple[float, int]:
        """Return the sum of the images' losses and the number of correct pixels."""
        self.network.train()
        self.optimiser.zero_grad()
        logits = self.network(images)
        loss = F.cross_entropy(logits, target, reduction="none").mean(1).mean(1)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        hits = (logits.argmax(dim=1).type(target.dtype) == target).type(target.dtype).sum()
        return loss.sum().item(), hits.item()
