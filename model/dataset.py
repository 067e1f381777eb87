"""A VOC folder as samples: checked before the first step, decoded once, drawn reproducibly.

Knows the folder's layout and the files' formats; knows nothing of networks or of training.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model import transforms
from model.classes import CLASSES, IGNORE_INDEX, PALETTE
from model.engines.base import Array, Size
from model.errors import DatasetError
from model.recipe import Recipe
from model.soft_labels import CELL, SoftLabels

VOC_FOLDER = Path("VOCdevkit") / "VOC2012"
MAX_PROBLEMS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """Where one image and its mask are."""

    name: str
    image_path: Path
    mask_path: Path

    def read(self, num_classes: int) -> tuple[Array, Array]:
        """Image (H, W, 3) uint8 RGB and target (H, W) uint8, 255 where void.

        Raises DatasetError that names the file.
        """
        image = _read(self.image_path, "RGB")
        target = _read_mask(self.mask_path)
        if image.shape[:2] != target.shape:
            raise DatasetError(
                f"{self.mask_path} is {_size(target.shape)}, its image {_size(image.shape)}: "
                "mask and image must have the same size"
            )
        unknown = [i for i in indices_in(target) if i >= num_classes and i != IGNORE_INDEX]
        if unknown:
            raise DatasetError(
                f"{self.mask_path} has the class index {unknown[0]}; there are {num_classes} "
                f"classes, 0 to {num_classes - 1}, and 255 for void"
            )
        return image, target


class VOCImages:
    """One image set of a VOC folder, e.g. "train" or "val"; decoded images are kept if they fit."""

    def __init__(
        self, samples: Sequence[Sample], *, name: str, num_classes: int, dropped: int = 0
    ) -> None:
        """Reads every image and mask once, so that what is broken is known before training.

        `dropped`: how many images of the list were left out, to be told. Raises DatasetError that
        lists the broken files.
        """
        self.name = name
        self.samples = list(samples)
        self.num_classes = num_classes
        self.dropped = dropped
        self.class_presence: NDArray[np.bool_] = np.zeros((len(samples), num_classes), np.bool_)
        self._sizes: list[Size] = [(0, 0)] * len(samples)
        self._decoded: dict[int, tuple[Array, Array]] = {}
        self._memory_lock = threading.Lock()
        # Data-parallel processes on one machine share its memory.
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._memory_left_bytes = _available_memory_bytes() // 2 // processes
        with ThreadPoolExecutor() as pool:
            problems = [p for p in pool.map(self._check, range(len(self.samples))) if p]
        if problems:
            shown = "\n  ".join(problems[:MAX_PROBLEMS_SHOWN])
            more = len(problems) - MAX_PROBLEMS_SHOWN
            raise DatasetError(
                f"{len(problems)} of {len(samples)} samples of the image set {name!r} are broken:\n"
                f"  {shown}{f' and {more} more' if more > 0 else ''}\n"
                "Copy these files again, or take their names off the list"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def sizes(self) -> dict[str, Size]:
        """Height and width of each image, by its name."""
        return {sample.name: size for sample, size in zip(self.samples, self._sizes, strict=True)}

    def require(self, batch_size: int) -> None:
        """Raises DatasetError unless there is one whole batch."""
        if len(self) < batch_size:
            raise DatasetError(
                f"the image set {self.name!r} has {len(self)} images, fewer than one batch of "
                f"{batch_size}: choose a smaller --batch-size"
            )

    def read(self, index: int) -> tuple[Array, Array]:
        """Image (H, W, 3) and target (H, W), both uint8."""
        return self._decoded.get(index) or self.samples[index].read(self.num_classes)

    def _check(self, index: int) -> str | None:
        try:
            image, target = self.samples[index].read(self.num_classes)
        except DatasetError as error:
            return str(error)
        present = [label for label in indices_in(target) if label < self.num_classes]
        self.class_presence[index, present] = True
        self._sizes[index] = target.shape
        if self._takes_memory(image.nbytes + target.nbytes):
            self._decoded[index] = image, target
        return None

    def _takes_memory(self, size_bytes: int) -> bool:
        """Whether so much is left; it is not any more. From any thread."""
        with self._memory_lock:
            fits = size_bytes <= self._memory_left_bytes
            if fits:
                self._memory_left_bytes -= size_bytes
        return fits


def open_voc(
    folder: Path, image_set: str, *, num_classes: int = len(CLASSES), min_size: Size | None = None
) -> VOCImages:
    """The image set `image_set` of the folder that holds `VOCdevkit/VOC2012`.

    With `min_size`, images that are lower or narrower are left out (their headers are read).
    Raises DatasetError.
    """
    listed = list_samples(folder, image_set)
    samples = listed
    if min_size is not None:
        samples = [sample for sample in listed if _holds(sample, min_size)]
        if not samples:
            raise DatasetError(
                f"no image of the set {image_set!r} holds a crop of {_size(min_size)} pixels: "
                "choose a smaller one with --crop HEIGHT WIDTH"
            )
    dropped = len(listed) - len(samples)
    return VOCImages(samples, name=image_set, num_classes=num_classes, dropped=dropped)


def list_samples(folder: Path, image_set: str) -> list[Sample]:
    """The samples of a list, none of them opened yet. Raises DatasetError for what is missing."""
    root = folder / VOC_FOLDER
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not there. --data is the folder that holds {VOC_FOLDER}; "
            "where there is a network, --download fetches VOC2012 into it (2 GB)"
        )
    for name in ("JPEGImages", "SegmentationClass"):
        if not (root / name).is_dir():
            raise DatasetError(f"{root / name} is not there: unpack the whole of VOC2012 again")
    lists = root / "ImageSets" / "Segmentation"
    path = lists / f"{image_set}.txt"
    if not path.is_file():
        present = ", ".join(sorted(p.stem for p in lists.glob("*.txt"))) or "none"
        raise DatasetError(f"{path} is not there. Image sets in this folder: {present}")
    names = path.read_text().split()
    if not names:
        raise DatasetError(f"{path} is empty: it should name one image a line")
    samples = [
        Sample(
            name, root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png"
        )
        for name in names
    ]
    missing = [
        str(path)
        for sample in samples
        for path in (sample.image_path, sample.mask_path)
        if not path.is_file()
    ]
    if missing:
        shown = "\n  ".join(missing[:MAX_PROBLEMS_SHOWN])
        raise DatasetError(
            f"{len(missing)} files of the image set {image_set!r} are missing, the first:\n"
            f"  {shown}\nCopy them again, or take their names off {path}"
        )
    return samples


def indices_in(target: Array) -> list[int]:
    """The values that occur in a target, in order; many times faster than `np.unique`, no sort."""
    counts = np.bincount(target.ravel(), minlength=256)
    return [int(value) for value in counts.nonzero()[0]]


def read_class_names(path: Path) -> tuple[str, ...]:
    """One class a line, background first. Raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it should name one class a line")
    names = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    if not 2 <= len(names) <= IGNORE_INDEX:
        raise DatasetError(f"{path} names {len(names)} classes; 2 to {IGNORE_INDEX} are possible")
    return names


def download_voc(folder: Path) -> None:
    """Fetch VOC2012 with torchvision, unless it is there. Raises DatasetError."""
    if (folder / VOC_FOLDER).is_dir():
        return
    from torchvision.datasets import VOCSegmentation

    folder.mkdir(parents=True, exist_ok=True)
    try:
        VOCSegmentation(str(folder), year="2012", image_set="trainval", download=True)
    except (OSError, RuntimeError) as error:
        raise DatasetError(
            f"VOC2012 cannot be fetched ({error}): copy VOCtrainval_11-May-2012.tar here by "
            f"hand and unpack it in {folder}"
        ) from error


TrainingSample = tuple[Array, Array] | tuple[Array, Array, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Draw:
    """One place in one epoch, and the image that is seen there: all that a sample depends on."""

    epoch: int
    place: int
    index: int


class TrainingSamples:
    """Random views of an image set, for a DataLoader whose sampler yields `Draw`s."""

    def __init__(
        self,
        images: VOCImages,
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


class EpochSampler:
    """The `Draw`s of one epoch for one of `world_size` processes, from batch `first_batch` on.

    The order is a function of seed and epoch alone, so an interrupted epoch continues where it
    stopped, and processes share an epoch without talking. The last incomplete batch is dropped.
    """

    def __init__(
        self,
        images: VOCImages,
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
        """Batches of this process: its share of each batch, every `world_size`-th draw."""
        order = self._order()
        for batch in range(self.first_batch, self.batches):
            places = range(batch * self.batch_size + self.rank, (batch + 1) * self.batch_size)
            yield [
                Draw(self.epoch, place, int(order[place])) for place in places[:: self.world_size]
            ]

    def _order(self) -> NDArray[np.int64]:
        number = len(self.images)
        if not self.shuffle:
            return np.arange(number)
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.rarity == 0:
            return rng.permutation(number)
        return rng.choice(number, size=number, p=rarity_weights(self.images, self.rarity))


def collate(samples: list[TrainingSample]) -> tuple[Tensor, ...]:
    """Samples to a batch: images (N, H, W, 3) and targets (N, H, W), uint8, and soft labels."""
    return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))


def rarity_weights(images: VOCImages, rarity: float) -> NDArray[np.float64]:
    """The probability of each image, shape (images,): those with rare classes are drawn more often.

    The mean over an image's classes, background aside, of (1 / images with that class) ** rarity.
    """
    objects = images.class_presence[:, 1:]
    with np.errstate(divide="ignore"):
        class_weight = np.where(objects.any(axis=0), objects.sum(axis=0) ** -float(rarity), 0.0)
    weights = (objects * class_weight).sum(axis=1)
    weights /= np.maximum(objects.sum(axis=1), 1)
    if not weights.any():
        return np.full(len(images), 1 / len(images))
    weights[weights == 0] = weights[weights > 0].min()  # nothing but background is still an image
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def _read(path: Path, mode: str) -> Array:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be decoded: {error}") from error


def _read_mask(path: Path) -> Array:
    """Class indices from a palette or grey PNG, or from one painted in the VOC colours."""
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L"):
                return np.asarray(image)
            if image.mode not in ("RGB", "RGBA"):
                raise DatasetError(
                    f"{path} has mode {image.mode}; a mask is a palette or grey PNG of class "
                    "indices, or painted in the VOC colours"
                )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be decoded: {error}") from error
    painted = _read(path, "RGB").astype(np.int32)
    packed = painted @ np.array([65536, 256, 1])
    index_of = {int(colour @ [65536, 256, 1]): i for i, colour in enumerate(PALETTE.astype(int))}
    colours, where = np.unique(packed, return_inverse=True)
    unknown = [int(colour) for colour in colours if int(colour) not in index_of]
    if unknown:
        raise DatasetError(f"{path} has the colour #{unknown[0]:06x}, which no VOC class has")
    indices = np.array([index_of[int(colour)] for colour in colours], np.uint8)
    return indices[where].reshape(packed.shape)


def _holds(sample: Sample, size: Size) -> bool:
    try:
        with Image.open(sample.image_path) as image:
            width, height = image.size
    except OSError as error:
        raise DatasetError(f"{sample.image_path} cannot be decoded: {error}") from error
    return height >= size[0] and width >= size[1]


def _available_memory_bytes() -> int:
    """What is free, or what a container's limit leaves; 0 where the system does not tell."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0
    cgroup = Path("/sys/fs/cgroup")
    try:
        limit = int((cgroup / "memory.max").read_text())
        return min(free, limit - int((cgroup / "memory.current").read_text()))
    except (ValueError, OSError):  # no container, or one without a limit
        return free


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
