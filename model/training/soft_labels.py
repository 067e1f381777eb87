"""Soft labels: what another network, a teacher, says of each image, to be learnt beside the masks.

A folder with one `NAME.npz` for each image `NAME` of the list. Its array `probabilities` is uint8,
(ceil(height / 8), ceil(width / 8), classes): the teacher's softmax, averaged over cells of 8 x 8
pixels of the image, times 255 and rounded. Knows nothing of networks.
"""

import zipfile
from pathlib import Path

import numpy as np

from model.engines.base import Array, Size
from model.errors import DatasetError

CELL = 8
"""Pixels of the image along each side of a cell."""


class SoftLabels:
    """Those of an image set, read once: a hundredth of the images' bytes."""

    def __init__(self, folder: Path, sizes: dict[str, Size], *, num_classes: int) -> None:
        """`sizes`: height and width of each image by its name. Raises DatasetError."""
        self._probabilities = {
            name: _read(folder / f"{name}.npz", size, num_classes) for name, size in sizes.items()
        }

    def read(self, name: str) -> Array:
        """Of one image, (h, w, classes) uint8: probabilities times 255."""
        return self._probabilities[name]


def _read(path: Path, size: Size, num_classes: int) -> Array:
    try:
        with np.load(path, allow_pickle=False) as file:
            probabilities: Array = file["probabilities"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path} cannot be read as soft labels ({error}): each image of the list needs a file "
            "with the array 'probabilities'"
        ) from error
    expected = (-(-size[0] // CELL), -(-size[1] // CELL), num_classes)
    if probabilities.dtype != np.uint8 or probabilities.shape != expected:
        raise DatasetError(
            f"{path}: expected uint8 of shape {expected}, for an image of {size[0]} x {size[1]} "
            f"pixels, found {probabilities.dtype} of shape {probabilities.shape}"
        )
    return probabilities
