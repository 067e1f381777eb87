"""One image and its mask as files: how they are decoded and checked.

Knows nothing of lists, of folders or of networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.classes import IGNORE_INDEX, PALETTE
from model.engines.base import Array, Size
from model.errors import DatasetError


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
        image = read_image(self.image_path)
        target = read_mask(self.mask_path)
        if image.shape[:2] != target.shape:
            raise DatasetError(
                f"{self.mask_path} is {format_size(target.shape)}, its image "
                f"{format_size(image.shape)}: mask and image must have the same size"
            )
        unknown = [i for i in find_indices(target) if i >= num_classes and i != IGNORE_INDEX]
        if unknown:
            raise DatasetError(
                f"{self.mask_path} has the class index {unknown[0]}; there are {num_classes} "
                f"classes, 0 to {num_classes - 1}, and 255 for void"
            )
        return image, target


def find_indices(target: Array) -> list[int]:
    """The values that occur in a target, in order; many times faster than `np.unique`, no sort."""
    counts = np.bincount(target.ravel(), minlength=256)
    return [int(value) for value in counts.nonzero()[0]]


def holds_crop(sample: Sample, size: Size) -> bool:
    """Whether the image is at least that high and wide, from its header alone."""
    try:
        with Image.open(sample.image_path) as image:
            width, height = image.size
    except OSError as error:
        raise DatasetError(f"{sample.image_path} cannot be decoded: {error}") from error
    return height >= size[0] and width >= size[1]


def read_image(path: Path) -> Array:
    """An image as RGB, (H, W, 3) uint8. Raises DatasetError."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be decoded: {error}") from error


def read_mask(path: Path) -> Array:
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
    painted = read_image(path).astype(np.int32)
    packed = painted @ np.array([65536, 256, 1])
    index_of = {int(colour @ [65536, 256, 1]): i for i, colour in enumerate(PALETTE.astype(int))}
    colours, where = np.unique(packed, return_inverse=True)
    unknown = [int(colour) for colour in colours if int(colour) not in index_of]
    if unknown:
        raise DatasetError(f"{path} has the colour #{unknown[0]:06x}, which no VOC class has")
    indices = np.array([index_of[int(colour)] for colour in colours], np.uint8)
    return indices[where].reshape(packed.shape)


def format_size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
