"""The order of the images in an epoch, which depends on the seed and the epoch only.

Knows nothing of the images but the classes that they contain.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.training.dataset import SegmentationDataset


@dataclass(frozen=True, slots=True)
class Draw:
    """A position in an epoch and the index of its image. A sample depends on nothing else."""

    epoch: int
    place: int
    index: int


class EpochSampler:
    """The `Draw`s of one epoch for one of `world_size` processes, from batch `first_batch` on.

    The order depends on the seed and the epoch only, so an interrupted epoch can be continued, and
    processes share an epoch without communication. The last incomplete batch is dropped.
    """

    def __init__(
        self,
        images: SegmentationDataset,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        rarity: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rarity = rarity
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_batch = 0
        images.require(batch_size)

    @property
    def batches(self) -> int:
        return len(self.images) // self.batch_size

    def __len__(self) -> int:
        return self.batches - self.first_batch

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield this process' share of each batch: every `world_size`-th draw."""
        order = self._draw_order()
        for batch in range(self.first_batch, self.batches):
            places = range(batch * self.batch_size + self.rank, (batch + 1) * self.batch_size)
            yield [
                Draw(self.epoch, place, int(order[place])) for place in places[:: self.world_size]
            ]

    def _draw_order(self) -> NDArray[np.int64]:
        number = len(self.images)
        if not self.shuffle:
            return np.arange(number)
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.rarity == 0:
            return rng.permutation(number)
        return rng.choice(number, size=number, p=compute_rarity_weights(self.images, self.rarity))


def compute_rarity_weights(images: SegmentationDataset, rarity: float) -> NDArray[np.float64]:
    """Compute each image's probability, (images,): those with rare classes are drawn more often.

    The mean over an image's classes, background aside, of (1 / images with that class) ** rarity.
    """
    objects = images.class_presence[:, 1:]
    with np.errstate(divide="ignore"):
        class_weight = np.where(objects.any(axis=0), objects.sum(axis=0) ** -float(rarity), 0.0)
    weights = (objects * class_weight).sum(axis=1)
    weights /= np.maximum(objects.sum(axis=1), 1)
    if not weights.any():
        return np.full(len(images), 1 / len(images))
    weights[weights == 0] = weights[weights > 0].min()  # images of nothing but background
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities
