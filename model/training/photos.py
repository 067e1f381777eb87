"""Photos and masks as pictures: opened, decoded, turned upright, as the service does it.

The service has its own way, for it decodes what strangers send; a test holds the two together.
Knows nothing of classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from model.engines.base import Array, Size
from model.pictures import FORMATS, UPRIGHT
from model.training.problems import BrokenSample, Problem

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

MISSING = "Copy the missing files, or take these images out of the set"
UNDECODABLE = f"Copy these files again, or save them anew as one of {', '.join(FORMATS)}"

ORIENTATION = 0x0112


@contextmanager
def open_upright(path: Path) -> Iterator[Image.Image]:
    """The file's first picture, decoded, as its EXIF orientation says. Raises BrokenSample."""
    if not path.is_file():
        raise BrokenSample(Problem(f"{path} is missing", MISSING))
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            turn = UPRIGHT.get(_read_orientation(image))
            yield image if turn is None else image.transpose(turn)
    except BrokenSample:
        raise
    except Exception as error:  # Pillow's plugins raise anything from OSError to struct.error
        raise BrokenSample(Problem(f"{path} cannot be decoded: {error}", UNDECODABLE)) from error


def read_photo(path: Path) -> Array:
    """An image as RGB, (H, W, 3) uint8, upright. Raises BrokenSample."""
    with open_upright(path) as image:
        return _convert_to_rgb(image)


def read_size(path: Path) -> Size:
    """The upright height and width; of a JPEG from its header alone. Raises BrokenSample."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        with open_upright(path) as image:
            return image.height, image.width
    try:
        with Image.open(path, formats=FORMATS) as image:
            is_on_its_side = _read_orientation(image) >= 5
            return image.size if is_on_its_side else (image.height, image.width)
    except Exception as error:
        raise BrokenSample(Problem(f"{path} cannot be decoded: {error}", UNDECODABLE)) from error


def _read_orientation(image: Image.Image) -> int:
    """1, upright, where there is none that can be read. A TIFF's is Pillow's affair.

    Not `getexif`: it believes XMP, too, which the service does not read.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        found = exif.get(ORIENTATION, 1)
    except Exception:  # damaged EXIF: the picture itself may be sound
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def _convert_to_rgb(image: Image.Image) -> Array:
    """16-bit samples keep their upper eight bits; transparency is dropped."""
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image) >> 8)
    if image.mode == "I":  # 32-bit integers; what files hold in them are 16-bit samples
        return _grey(np.clip(np.asarray(image), 0, 65535) >> 8)
    if image.mode == "F":
        samples = np.nan_to_num(np.asarray(image))
        return _grey(np.clip(samples * 255 if samples.max() <= 1 else samples, 0, 255))
    return np.asarray(image.convert("RGB"))


def _grey(samples: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Array:
    return np.repeat(samples.astype(np.uint8)[..., None], 3, axis=2)
