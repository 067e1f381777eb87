"""Batches of random views of a dataset, made by loader processes while the network learns.

Knows nothing of networks or of losses.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from model.engines.base import Array
from model.training import transforms
from model.training.copy_paste import paste_objects
from model.training.cutmix import mix_batch
from model.training.dataset import SegmentationDataset
from model.training.distributed import Group
from model.training.recipe import Recipe
from model.training.sampler import Draw, EpochSampler
from model.training.soft_labels import CELL, SoftLabels
from model.training.state import Training
from model.training.transfer import send
from model.training.transforms import Recolouring, View

TrainingSample = tuple[NDArray[Any], Array] | tuple[NDArray[Any], Array, NDArray[np.float32]]


class Features(Protocol):
    """The output of the network's frozen layers for each view."""

    def read(self, index: int, view: int) -> NDArray[Any]:
        """Read a view's features, (h, w, channels): float32, or the bits of bfloat16."""


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
        self.features: Features | None = None
        """The features of the images' views, or None. Set it before the first sample is read."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> TrainingSample:
        """Image (h, w, 3) and target (h, w), uint8, of the recipe's crop size.

        With soft labels, their view is a third array, (h / 8, w / 8, C) float32. With `features`,
        the image's features replace it.
        """
        number, rng = self._start(draw)
        features = None
        if number is not None and self.features:
            features = self.features.read(draw.index, number)
        return self._make_view(draw.index, rng, features)

    def draw_view(self, draw: Draw) -> tuple[View, Recolouring]:
        """Return the window and the colours of the sample, without its pixels."""
        return self._draw_view(draw.index, self._start(draw)[1])

    def read_image(self, index: int, view: int) -> Array:
        """Return the image of one of the recipe's views, (h, w, 3) uint8."""
        return self._make_view(index, self._start_view(index, view))[0]

    def _start(self, draw: Draw) -> tuple[int | None, np.random.Generator]:
        """Create a sample's generator; if the recipe has views, choose one, which has its own."""
        rng = np.random.default_rng((self.seed, draw.epoch, draw.place))
        if not self.recipe.views:
            return None, rng
        number = int(rng.integers(self.recipe.views))
        return number, self._start_view(draw.index, number)

    def _start_view(self, index: int, view: int) -> np.random.Generator:
        """Create the generator of a view, which depends on nothing but its image and its number."""
        return np.random.default_rng((self.seed, index, view))

    def _draw_view(self, index: int, rng: np.random.Generator) -> tuple[View, Recolouring]:
        source, recipe = self.images.size_of(index), self.recipe
        if not recipe.augment:
            return transforms.draw_crop(source, size=recipe.crop, rng=rng), ()
        view = transforms.draw_view(source, size=recipe.crop, scale=recipe.scale, rng=rng)
        return view, transforms.draw_recolouring(rng)

    def _make_view(
        self, index: int, rng: np.random.Generator, features: NDArray[Any] | None = None
    ) -> TrainingSample:
        image, target = self.images.read(index)
        if self.recipe.void_is_background:
            target = transforms.void_to_background(target)
        view, recolouring = self._draw_view(index, rng)
        if not self.recipe.augment:
            return view.cut(image) if features is None else features, view.cut(target)
        if features is None:
            features = view.of_image(image, fill=self.fill, recolouring=recolouring)
        if self.soft_labels is None:
            return features, view.of_target(target)
        probabilities = self.soft_labels.read(self.images.samples[index].name)
        soft = view.of_cells(probabilities, cell=CELL) / np.float32(255)
        return features, view.of_target(target), soft


def collate(samples: list[TrainingSample]) -> tuple[Tensor, ...]:
    """Stack samples: images (N, H, W, 3) and targets (N, H, W), uint8, and soft labels."""
    images, *labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
    # NumPy has no bfloat16, so features come as their bits.
    return images.view(torch.bfloat16) if images.dtype == torch.int16 else images, *labels


def create_sampler(
    images: SegmentationDataset, recipe: Recipe, *, seed: int, group: Group
) -> EpochSampler:
    """Create the order of a run's images, of which each process takes its share.

    Raises DatasetError.
    """
    return EpochSampler(
        images,
        batch_size=recipe.batch_size,
        seed=seed,
        rarity=recipe.rarity,
        rank=group.rank,
        world_size=group.world_size,
    )


def create_loader(
    samples: Any,
    sampler: EpochSampler,
    *,
    workers: int,
    device: torch.device,
    collate: Callable[..., Any] = collate,
) -> DataLoader[Any]:
    """Create the loader of a run's batches, which follows the sampler. Create it once in a run.

    `samples[draw]` is a sample; `collate` makes a batch of some.

    Its processes start with the first epoch and stay. If they started again later, they would share
    the memory of the grown training process, and each page would be copied when it is next written.
    """
    return DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None,
        worker_init_fn=ignore_signals,
    )


def iterate_epoch(
    training: Training, sampler: EpochSampler, batches: Iterable[tuple[Tensor, ...]]
) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over the rest of the current epoch: images, targets and, if given, soft labels.

    `batches` are those of the sampler. They are mixed on the device.
    """
    recipe, device = training.recipe, training.group.device
    sampler.epoch = training.epoch
    sampler.first_batch = training.step - training.epoch * training.steps_per_epoch
    for place, batch in enumerate(batches, start=sampler.first_batch):
        batch = tuple(send(tensor, device) for tensor in batch)
        rng = np.random.default_rng((training.seed, sampler.epoch, place, training.group.rank))
        if recipe.copy_paste:
            batch = paste_objects(batch, share=recipe.copy_paste, rng=rng)
        if recipe.cutmix:
            batch = mix_batch(batch, crop=recipe.crop, share=recipe.cutmix, rng=rng)
        yield batch


def ignore_signals(_: int) -> None:
    """Ignore signals in a loader process: the main process handles them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
