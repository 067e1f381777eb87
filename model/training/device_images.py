"""A training set in the memory of a device, and batches of its views, which are made there.

The views are those of `TrainingSamples`, up to the rounding of interpolation: they are drawn on
the host, by the same generators. Knows nothing of networks or of losses.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from model.engines.base import Array
from model.errors import DatasetError
from model.training.batch_views import BatchViews
from model.training.dataset import measure_available_bytes
from model.training.distributed import Group
from model.training.drawn_views import Layout, ViewTable
from model.training.loader import TrainingSamples
from model.training.transforms import void_to_background

MAX_WINDOW_PIXELS = 2**24
"""The pixels of images that are scaled together: about a gigabyte while they are."""

Choice = Literal["auto", "on", "off"]
SHARE = 0.5
"""Of the device's free memory: the remainder is for the network and its activations."""


class DeviceImages:
    """The decoded images, targets and soft labels of an image set, one after the other."""

    def __init__(self, samples: TrainingSamples, device: torch.device) -> None:
        self.samples = samples
        self.layout = lay_out(samples)
        self._device = device
        self._images = self._reserve(self.layout.pixels, 3)
        self._targets = self._reserve(self.layout.pixels)
        self._cells = self._reserve(self.layout.cells, count_soft_classes(samples))
        self._fill = torch.tensor(samples.fill, dtype=torch.uint8, device=device)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._store, range(len(samples))))

    def _reserve(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.uint8, device=self._device)

    def _store(self, index: int) -> None:
        """Copy an image and its labels to the device."""
        samples = self.samples
        image, target = samples.images.read(index)
        if samples.recipe.void_is_background:
            target = void_to_background(target)
        pixels = slice(*self.layout.pixel_starts[index : index + 2])
        _copy(image, self._images[pixels])
        _copy(target, self._targets[pixels])
        if samples.soft_labels is not None:
            cells = slice(*self.layout.cell_starts[index : index + 2])
            name = samples.images.samples[index].name
            _copy(samples.soft_labels.read(name), self._cells[cells])

    def make_batch(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Make the views that rows of `DrawnViews` describe; the rows are on the host.

        Images (N, H, W, 3) and targets (N, H, W), uint8, and soft labels if there are any, (N, H /
        8, W / 8, C) float32: what `collate` makes, but on the device.
        """
        made = [self._make_part(part) for part in split_rows(rows)]
        return made[0] if len(made) == 1 else tuple(map(torch.cat, zip(*made, strict=True)))

    def _make_part(self, rows: Tensor) -> tuple[Tensor, ...]:
        views = BatchViews(rows, crop=self.samples.recipe.crop, device=self._device)
        targets = views.of_targets(self._targets)
        if not self.samples.recipe.augment:
            return views.cut_images(self._images), targets
        images = views.of_images(self._images, fill=self._fill)
        if self.samples.soft_labels is None:
            return images, targets
        return images, targets, views.of_cells(self._cells) / 255


def open_device_images(
    samples: TrainingSamples, choice: Choice, *, group: Group, say: Callable[..., None]
) -> DeviceImages | None:
    """Copy the samples' images to the device, if wanted and if they fit there; else None.

    "auto" wants it on a GPU. With several processes, each has all images on its own device, or
    none has. Raises DatasetError if they do not fit with "on".
    """
    device = group.device
    if choice == "off" or (choice == "auto" and device.type != "cuda"):
        return None
    needed, free = count_bytes(samples), SHARE * measure_free_bytes(device)
    state = f"decoded, the training set takes {needed / 1e6:.1f} MB of {device}"
    if fit_everywhere(needed <= free, group):
        say(f"{state}, which augments it, too")
        return DeviceImages(samples, device)
    spare = f"{state}, more than the {free / 1e6:.1f} MB that are free for it"
    if choice == "on":
        raise DatasetError(f"{spare}: use --device-data auto")
    say(f"{spare}: loader processes read and augment it")
    return None


def fit_everywhere(fits: bool, group: Group) -> bool:
    """Return whether the images fit in every process."""
    if group.world_size == 1:
        return fits
    return bool(group.sum(torch.tensor(int(not fits), device=group.device)).item() == 0)


def lay_out(samples: TrainingSamples) -> Layout:
    return Layout([samples.images.size_of(index) for index in range(len(samples))])


def count_soft_classes(samples: TrainingSamples) -> int:
    """Return the classes of the soft labels; 0 if there are none."""
    if samples.soft_labels is None:
        return 0
    return int(samples.soft_labels.read(samples.images.samples[0].name).shape[2])


def count_bytes(samples: TrainingSamples) -> int:
    """Return the bytes of the decoded images, targets and soft labels."""
    layout = lay_out(samples)
    return 4 * layout.pixels + count_soft_classes(samples) * layout.cells


def measure_free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return measure_available_bytes()


def split_rows(rows: Tensor) -> tuple[Tensor, ...]:
    """Split a batch whose images are too large to be scaled together."""
    high, wide = (int(side.number.max()) for side in ViewTable(rows).sides)
    return rows.chunk(-(-len(rows) * high * wide // MAX_WINDOW_PIXELS))


def _copy(source: Array, place: Tensor) -> None:
    # A copy, because PyTorch warns of arrays that are not writable, such as decoders make.
    place.copy_(torch.from_numpy(source.copy()).view(place.shape))
