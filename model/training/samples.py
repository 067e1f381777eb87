"""The files of one image and its mask, which are read and checked together.

Knows nothing of lists, of folders or of networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.class_list import ClassList
from model.engines.base import Array, Size
from model.training.defects import BrokenSample, Defect
from model.training.masks import read_mask
from model.training.photos import read_photo, read_size

SAME_SIZE = "Make these masks anew at the size that their images have when they are upright"


@dataclass(frozen=True, slots=True)
class Sample:
    """The paths of one image and its mask."""

    name: str
    image_path: Path
    mask_path: Path

    def read(self, classes: ClassList) -> tuple[Array, Array]:
        """Image (H, W, 3) uint8 RGB and target (H, W) uint8, 255 where void; both upright.

        Raises BrokenSample with every defect.
        """
        defects: list[Defect] = []
        try:
            image = read_photo(self.image_path)
        except BrokenSample as error:
            defects += error.defects
        try:
            target = read_mask(self.mask_path, classes)
        except BrokenSample as error:
            defects += error.defects
        if defects:
            raise BrokenSample(*defects)
        if image.shape[:2] != target.shape:
            raise BrokenSample(
                Defect(
                    f"{self.mask_path} is {format_size(target.shape)}, its image "
                    f"{format_size(image.shape)}: mask and image must have the same size",
                    SAME_SIZE,
                )
            )
        return image, target


def holds_crop(sample: Sample, size: Size) -> bool:
    """Return whether the upright image holds such a crop; True if it cannot be read."""
    try:
        height, width = read_size(sample.image_path)
    except BrokenSample:
        return True  # reading it reports the defect
    return height >= size[0] and width >= size[1]


def format_size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"
