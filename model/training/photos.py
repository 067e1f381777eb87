"""Open, decode and turn upright photos and masks, as the service does.

The service has its own decoder, because it decodes untrusted files; a test compares the two. Knows
nothing of classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from model.engines.base import Array, Size
from model.pictures import FORMATS, UPRIGHT
from model.training.defects import BrokenSample, Defect

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

MISSING = "Copy the missing files, or take these images out of the set"
UNDECODABLE = f"Copy these files again, or save them anew as one of {', '.join(FORMATS)}"

ORIENTATION = 0x0112


@contextmanager
def open_upright(path: Path) -> Iterator[Image.Image]:
    """Decode the file's first picture and turn it upright. Raises BrokenSample."""
    if not path.is_file():
        raise BrokenSample(Defect(f"{path} is missing", MISSING))
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            turn = UPRIGHT.get(_read_orientation(image))
            yield image if turn is None else image.transpose(turn)
    except BrokenSample:
        raise
    except Exception as error:  # Pillow's plugins raise anything from OSError to struct.error
        raise BrokenSample(Defect(f"{path} cannot be decoded: {error}", UNDECODABLE)) from error


def read_photo(path: Path) -> Array:
    """Read an image as RGB, (H, W, 3) uint8, upright. Raises BrokenSample."""
    with open_upright(path) as image:
        return _convert_to_rgb(image)


def read_size(path: Path) -> Size:
    """Read the upright height and width, of a JPEG from its header alone. Raises BrokenSample."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        with open_upright(path) as image:
            return image.height, image.width
    try:
        with Image.open(path, formats=FORMATS) as image:
            is_on_its_side = _read_orientation(image) >= 5
            return image.size if is_on_its_side else (image.height, image.width)
    except Exception as error:
        raise BrokenSample(Defect(f"{path} cannot be decoded: {error}", UNDECODABLE)) from error


def _read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, if there is none or it cannot be read.

    Pillow itself turns TIFFs upright. `getexif` is not used because it also reads XMP, which the
    service does not.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        found = exif.get(ORIENTATION, 1)
    except Exception:  # the EXIF is damaged, but the picture may not be
        return 1
    return found if isinstance(found, int) and found in UPRIGHT else 1


def _convert_to_rgb(image: Image.Image) -> Array:
    """Convert any mode: 16-bit samples keep their upper eight bits, transparency is dropped."""
    if image.mode.startswith("I;16"):
        return _repeat_channels(np.asarray(image) >> 8)
    if image.mode == "I":  # 32-bit integers, in which files store 16-bit samples
        return _repeat_channels(np.clip(np.asarray(image), 0, 65535) >> 8)
    if image.mode == "F":
        samples = np.nan_to_num(np.asarray(image))
        return _repeat_channels(np.clip(samples * 255 if samples.max() <= 1 else samples, 0, 255))
    return np.asarray(image.convert("RGB"))


def _repeat_channels(samples: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Array:
    return np.repeat(samples.astype(np.uint8)[..., None], 3, axis=2)
