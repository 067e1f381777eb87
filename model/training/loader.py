"""Batches of random views of a dataset, made in processes of their own while the network learns.

Knows nothing of networks or of losses.
"""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from model.engines.base import Array
from model.training import transforms
from model.training.dataset import SegmentationDataset
from model.training.recipe import Recipe
from model.training.sampler import Draw, EpochSampler
from model.training.soft_labels import CELL, SoftLabels
from model.training.state import Training

TrainingSample = tuple[Array, Array] | tuple[Array, Array, NDArray[np.float32]]


class TrainingSamples:
    """Random views of an image set, for a DataLoader whose sampler yields `Draw`s."""

    def __init__(
        self,
        images: SegmentationDataset,
        recipe: Recipe,
        *,
        seed: int,
        fill: tuple[int, int, int],
        soft_labels: SoftLabels | None = None,
    ) -> None:
        self.images = images
        self.recipe = recipe
        self.seed = seed
        self.fill = fill
        self.soft_labels = soft_labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> TrainingSample:
        """Image (h, w, 3) and target (h, w), uint8, of the recipe's crop size.

        With soft labels, a third array: their view, (h / 8, w / 8, C) float32.
        """
        rng = np.random.default_rng((self.seed, draw.epoch, draw.place))
        image, target = self.images.read(draw.index)
        size = self.recipe.crop
        if self.recipe.void_is_background:
            target = transforms.void_to_background(target)
        if not self.recipe.augment:
            return transforms.random_crop(image, target, size=size, rng=rng)
        view = transforms.View(target.shape, size=size, scale=self.recipe.scale, rng=rng)
        seen = view.of_image(image, fill=self.fill, rng=rng), view.of_target(target)
        if self.soft_labels is None:
            return seen
        probabilities = self.soft_labels.read(self.images.samples[draw.index].name)
        return *seen, view.of_cells(probabilities, cell=CELL) / np.float32(255)


def collate(samples: list[TrainingSample]) -> tuple[Tensor, ...]:
    """Samples to a batch: images (N, H, W, 3) and targets (N, H, W), uint8, and soft labels."""
    return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))


def create_loader(
    samples: TrainingSamples, sampler: EpochSampler, *, workers: int, device: torch.device
) -> DataLoader[Any]:
    """What reads the batches of every epoch, as the sampler stands: to be made once in a run.

    Its processes start with the first epoch and stay. Started again, they would share all that
    training has grown to, and every page of it would be copied when it is next written to.
    """
    return DataLoader(
        samples,  # type: ignore[arg-type]  # its keys are draws, not integers
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=_ignore_signals,
    )


def iterate_epoch(
    training: Training, sampler: EpochSampler, loader: DataLoader[Any]
) -> Iterator[tuple[Tensor, ...]]:
    """The rest of the epoch that the training stands in: images, targets, perhaps soft labels."""
    sampler.epoch = training.epoch
    sampler.first_batch = training.step - training.epoch * training.steps_per_epoch
    yield from loader


def _ignore_signals(_: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
