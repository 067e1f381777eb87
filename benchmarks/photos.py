"""JPEG photos to send: made from the photo of this repository, or read from a folder.

Made photos are the same at every call: a photo's number is its seed. Knows nothing of servers.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from model.engines.base import Array, Size

SOURCE = Path(__file__).parent.parent / "docs" / "images" / "cat.jpg"

VOC_SIZE = (375, 500)
"""The size of most landscape photos in VOC2012, (height, width)."""

TWELVE_MEGAPIXELS = (3000, 4000)

# An enlarged photo has less detail than a camera's and would decode too fast. With this grain and
# quality, the photos have 70 kB, as VOC's photos of this size have.
GRAIN = 5.0
QUALITY = 92


def make_photos(count: int, size: Size = VOC_SIZE) -> list[bytes]:
    """Different crops, flips and exposures of the repository's photo."""
    with Image.open(SOURCE) as file:
        source = file.convert("RGB")
    return [_make_photo(source, size, np.random.default_rng(number)) for number in range(count)]


def read_photos(folder: Path, count: int, size: Size = VOC_SIZE) -> list[bytes]:
    """Read the first `count` JPEG files of exactly this size. Raises FileNotFoundError."""
    found: list[bytes] = []
    for path in sorted(folder.glob("*.jp*g")):
        with Image.open(path) as image:
            if image.size == size[::-1]:
                found.append(path.read_bytes())
        if len(found) == count:
            return found
    height, width = size
    raise FileNotFoundError(
        f"{folder}: {count} JPEG photos {width} pixels wide and {height} high are needed, found "
        f"{len(found)}. Name another folder, or none to use photos made from {SOURCE.name}"
    )


def open_photos(count: int, folder: Path | None) -> list[bytes]:
    """Return photos of VOC_SIZE: the folder's, or made ones. Raises FileNotFoundError."""
    return make_photos(count) if folder is None else read_photos(folder, count)


def describe_photos(count: int, folder: Path | None = None) -> str:
    """Say how many photos of VOC_SIZE a benchmark sent, and from where."""
    source = "made from docs/images/cat.jpg" if folder is None else "a folder's"
    return f"{count} of {VOC_SIZE[1]} x {VOC_SIZE[0]}, {source}"


def decode_photo(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def encode_image(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _make_photo(source: Image.Image, size: Size, rng: np.random.Generator) -> bytes:
    height, width = size
    scale = min(source.width / width, source.height / height) * rng.uniform(0.7, 1.0)
    crop_width, crop_height = width * scale, height * scale
    left = rng.uniform(0, source.width - crop_width)
    top = rng.uniform(0, source.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    image = source.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.8, 1.2))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.6, 1.4))
    grain = GRAIN * rng.standard_normal(size, np.float32)[..., None]
    pixels = (np.asarray(image, np.float32) + grain).clip(0, 255).astype(np.uint8)
    return encode_image(Image.fromarray(pixels), "JPEG", quality=QUALITY)
