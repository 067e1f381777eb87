"""Soft labels: class probabilities of another network, a teacher, learnt in addition to the masks.

A folder with one `NAME.npz` for each image `NAME` of the list. Its array `probabilities` is uint8,
(ceil(height / 8), ceil(width / 8), classes): the teacher's softmax, averaged over cells of 8 x 8
pixels of the image, times 255 and rounded. Knows nothing of networks: a teacher is a function.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from model.engines.base import Array, Size
from model.errors import DatasetError
from model.training.photos import read_photo
from model.weights import write_atomically

CELL = 8
"""Pixels of the image along each side of a cell."""

BAND_ROWS = 32 * CELL
"""The number of rows of full-size logits that are in memory at once."""

Teacher = Callable[[Array], NDArray[np.floating]]
"""Turns an upright RGB image (H, W, 3) uint8 into logits, or logarithms of probabilities, of the
whole image: (h, w, classes), of any size.
"""


class SoftLabels:
    """The soft labels of an image set, read into memory: a hundredth of the images' bytes."""

    def __init__(self, folder: Path, sizes: dict[str, Size], *, num_classes: int) -> None:
        """`sizes`: height and width of each image by its name. Raises DatasetError."""
        self._probabilities = {
            name: _read(folder / f"{name}.npz", size, num_classes) for name, size in sizes.items()
        }

    def read(self, name: str) -> Array:
        """Return the soft labels of one image, (h, w, classes) uint8: probabilities times 255."""
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


def label_images(images: Mapping[str, Path], teacher: Teacher, output: Path) -> None:
    """Write the teacher's soft labels of each image, by its name, into the folder `output`.

    Raises DatasetError for an image that cannot be read, and for answers that are no logits.
    """
    for name, path in tqdm(images.items(), desc="soft labels", unit="image"):
        image = read_photo(path)
        logits = np.asarray(teacher(image), np.float32)
        if logits.ndim != 3 or not np.isfinite(logits).all():
            raise DatasetError(
                f"{path}: the teacher answered an array of shape {logits.shape}; finite numbers "
                "of shape (height, width, classes) expected"
            )
        write_soft_labels(output / f"{name}.npz", soften(logits, (image.shape[0], image.shape[1])))


def write_soft_labels(path: Path, probabilities: Array) -> None:
    """Write a file of the format above, completely or not at all."""
    with write_atomically(path) as file:
        np.savez_compressed(file, probabilities=probabilities)


def soften(logits: NDArray[np.float32], size: Size) -> Array:
    """Turn logits (h, w, classes) of an image of (height, width) into its soft labels.

    They are scaled to the image bilinearly; the softmax of each pixel is averaged over its cell.
    """
    height, width = size
    channels = [Image.fromarray(channel) for channel in np.moveaxis(logits, 2, 0)]
    bands = []
    for top in range(0, height, BAND_ROWS):
        rows = min(BAND_ROWS, height - top)
        edges = (top * logits.shape[0] / height, (top + rows) * logits.shape[0] / height)
        box = (0, edges[0], logits.shape[1], edges[1])
        resized = (c.resize((width, rows), Image.Resampling.BILINEAR, box=box) for c in channels)
        scaled = [np.asarray(channel) for channel in resized]
        bands.append(_average_cells(_softmax(np.stack(scaled, axis=2))))
    return np.concatenate(bands)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers: NDArray[np.float32] = np.exp(logits - logits.max(axis=2, keepdims=True))
    powers /= powers.sum(axis=2, keepdims=True)
    return powers


def _average_cells(probabilities: NDArray[np.float32]) -> Array:
    """Average (H, W, C) to (ceil(H / 8), ceil(W / 8), C) uint8; the last cells may be smaller."""
    sums = probabilities
    for axis in (0, 1):
        length = sums.shape[axis]
        starts = np.arange(0, length, CELL)
        counts = np.minimum(CELL, length - starts)
        shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
        sums = np.add.reduceat(sums, starts, axis=axis) / counts.reshape(shape)
    return np.rint(255 * sums).astype(np.uint8)
