"""Where the batches of a run are made: by loader processes, or on the device by itself.

Knows nothing of networks or of losses.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from model.errors import RecipeError
from model.training.device_images import DeviceImages, open_device_images
from model.training.distributed import Group
from model.training.drawn_views import DrawnViews
from model.training.loader import TrainingSamples, create_loader
from model.training.sampler import EpochSampler


class DeviceBatches:
    """Batches of views that the device makes. Loader processes draw them ahead of it."""

    def __init__(
        self, images: DeviceImages, sampler: EpochSampler, *, workers: int, group: Group
    ) -> None:
        self._images = images
        self._rows: DataLoader[Any] = create_loader(
            DrawnViews(images.samples, images.layout),
            sampler,
            workers=workers,
            device=group.device,
            collate=default_collate,
        )

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return map(self._images.make_batch, self._rows)


def open_batches(
    options: argparse.Namespace,
    samples: TrainingSamples,
    sampler: EpochSampler,
    *,
    group: Group,
    say: Callable[..., None],
) -> Iterable[tuple[Tensor, ...]]:
    """Return the batches that follow the sampler. Create them once in a run (see `create_loader`).

    Raises RecipeError or DatasetError if the device cannot make them and must.
    """
    choice, workers = options.device_data, options.workers
    if samples.features is None:
        images = open_device_images(samples, choice, group=group, say=say)
        if images is not None:
            return DeviceBatches(images, sampler, workers=workers, group=group)
    elif choice == "on":
        raise RecipeError("--device-data on needs pixels, which a --feature-cache does not keep")
    return create_loader(samples, sampler, workers=workers, device=group.device)
