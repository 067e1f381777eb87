"""A set of images with masks: checked before the first step, decoded once if memory allows.

Knows nothing of folders and lists, of networks or of training.
"""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.class_list import VOC, ClassList
from model.engines.base import Array, Size
from model.errors import DatasetError, RecipeError
from model.training.defects import BrokenSample, require_sound
from model.training.masks import find_indices
from model.training.samples import Sample, format_size, holds_crop


def open_images(
    samples: Sequence[Sample],
    *,
    name: str,
    classes: ClassList = VOC,
    min_size: Size | None = None,
) -> "SegmentationDataset":
    """Open and check the image set of these samples; `min_size` leaves smaller images out.

    Raises DatasetError.
    """
    kept = list(samples)
    if min_size is not None:
        kept = [sample for sample in samples if holds_crop(sample, min_size)]
        if not kept:
            raise DatasetError(
                f"no image of the set {name!r} holds a crop of {format_size(min_size)} "
                "pixels: choose a smaller one with --crop HEIGHT WIDTH"
            )
    return SegmentationDataset(kept, name=name, classes=classes, dropped=len(samples) - len(kept))


class SegmentationDataset:
    """One image set, e.g. VOC's "train" or "val"; decoded images are kept if they fit."""

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        name: str,
        classes: ClassList = VOC,
        dropped: int = 0,
    ) -> None:
        """Read every image and mask once, so that broken files are known before training starts.

        `dropped`: the number of images that were left out of the list, for messages. Raises
        DatasetError that lists every defect.
        """
        self.name = name
        self.samples = list(samples)
        self.classes = classes
        self.dropped = dropped
        self.class_presence: NDArray[np.bool_] = np.zeros((len(samples), len(classes)), np.bool_)
        self._sizes: list[Size] = [(0, 0)] * len(samples)
        self.decoded: dict[int, tuple[Array, Array]] = {}
        self._memory_lock = threading.Lock()
        # Data-parallel processes on a machine share its memory.
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self.memory_left_bytes = measure_available_bytes() // 2 // processes
        with ThreadPoolExecutor() as pool:
            checked = pool.map(self._check, range(len(samples)))
            bar = tqdm(checked, total=len(samples), desc=f"check {name}", leave=False, disable=None)
            broken = [error for error in bar if error is not None]
        require_sound(broken, name=name, samples=len(samples))

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def sizes(self) -> dict[str, Size]:
        """Height and width of each image, by its name."""
        return {sample.name: size for sample, size in zip(self.samples, self._sizes, strict=True)}

    def size_of(self, index: int) -> Size:
        """Height and width of an image."""
        return self._sizes[index]

    def require(self, batch_size: int) -> None:
        """Raises DatasetError unless there is one whole batch."""
        if len(self) < batch_size:
            raise DatasetError(
                f"the image set {self.name!r} has {len(self)} images, fewer than one batch of "
                f"{batch_size}: choose a smaller --batch-size"
            )

    def require_crop(self, size: Size) -> None:
        """Raises RecipeError unless each image holds a crop of this size."""
        small = sum(height < size[0] or width < size[1] for height, width in self._sizes)
        if small:
            raise RecipeError(
                f"{small} of the {len(self)} images of the set {self.name!r} are smaller than a "
                f"crop of {format_size(size)}, and crops that are not scaled (--no-augment, "
                "--validate-crops) are not padded: choose a smaller --crop, or leave these images "
                "out with --drop-small-images"
            )

    def read(self, index: int) -> tuple[Array, Array]:
        """Image (H, W, 3) and target (H, W), both uint8."""
        return self.decoded.get(index) or self.samples[index].read(self.classes)

    def _check(self, index: int) -> BrokenSample | None:
        try:
            image, target = self.samples[index].read(self.classes)
        except BrokenSample as error:
            return error
        present = [label for label in find_indices(target) if label < len(self.classes)]
        self.class_presence[index, present] = True
        self._sizes[index] = target.shape
        if self._reserve_memory(image.nbytes + target.nbytes):
            self.decoded[index] = image, target
        return None

    def _reserve_memory(self, size_bytes: int) -> bool:
        """Reserve memory for an image. Returns whether enough was left. Thread-safe."""
        with self._memory_lock:
            fits = size_bytes <= self.memory_left_bytes
            if fits:
                self.memory_left_bytes -= size_bytes
        return fits


def measure_available_bytes() -> int:
    """Return the memory that is free within a container's limit; 0 if it is unknown."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
    cgroup = Path("/sys/fs/cgroup")
    try:
        limit = int((cgroup / "memory.max").read_text())
        return min(free, limit - int((cgroup / "memory.current").read_text()))
    except (ValueError, OSError):  # no container, or no limit
        return free
