"""A folder of VOC's layout to train on: the given one, or a temporary one of made photos.

Knows nothing of training.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.photos import VOC_SIZE, make_photos
from model.classes import CLASSES, PALETTE
from model.engines.base import Size
from model.training.samples import Sample
from model.training.voc import VOC_FOLDER, list_samples


@contextmanager
def open_voc(data: Path | None, images: int) -> Iterator[Path]:
    """Open the given folder, or a made one that is removed when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            make_voc(Path(folder), images)
        yield data or Path(folder)


def make_voc(folder: Path, images: int, size: Size = VOC_SIZE) -> None:
    """Write an image set "train" of made photos. Each mask has two rectangles with void borders."""
    root = folder / VOC_FOLDER
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = size
    names = [f"{number:06d}" for number in range(images)]
    for name, photo in zip(names, make_photos(images, size), strict=True):
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(photo)
        target = np.zeros(size, np.uint8)
        for label in rng.integers(1, len(CLASSES), 2):
            top, left = int(rng.integers(height // 2)), int(rng.integers(width // 2))
            window = target[top : top + height // 3, left : left + width // 3]
            window[:] = 255
            window[2:-2, 2:-2] = label
        mask = Image.fromarray(target)
        mask.putpalette(PALETTE.tobytes())
        mask.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names) + "\n")


def choose_samples(data: Path, size: Size, number: int) -> tuple[Sample, ...]:
    """Choose the first samples of "train" that hold such a crop, as the notebook does."""
    found = []
    for sample in list_samples(data, "train"):
        with Image.open(sample.image_path) as image:
            if image.height >= size[0] and image.width >= size[1]:
                found.append(sample)
        if len(found) == number:
            return tuple(found)
    raise SystemExit(
        f"error: {data} has {len(found)} images of {size[0]} x {size[1]} or more in its set "
        f"train, and {number} are needed: choose fewer with --images"
    )
