"""Converts Pillow's images of any mode to RGB, a band of rows at a time.

Imports NumPy only for the modes that need it. Knows nothing of files.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from PIL import Image

from app.codecs.pillow import translate_pillow_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAND_PIXELS = 2**18
"""The pixels of one band. To convert the whole picture at once would double its memory."""


Conversion = Callable[[Image.Image], Image.Image]
"""A function from a band of a picture to the same band in RGB."""


def convert_in_bands(image: Image.Image) -> Iterator[Image.Image]:
    """Yield the image as RGB bands of some rows, from the top."""
    convert = choose_conversion(image)
    for band in split_into_bands(image, _count_band_rows(image)):
        yield convert(band)


def _count_band_rows(image: Image.Image) -> int:
    return max(1, BAND_PIXELS // image.width)


def split_into_bands(image: Image.Image, rows: int) -> Iterator[Image.Image]:
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def convert_to_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else choose_conversion(image)(image)


def choose_conversion(image: Image.Image) -> Conversion:
    """Return the conversion of this image's bands to RGB; 16-bit samples keep the upper 8 bits."""
    if image.mode.startswith("I;16"):
        return _convert_16_bits
    if image.mode == "I":  # 32-bit integers, in which files store 16-bit samples
        return _convert_integers
    if image.mode == "F":
        bands = split_into_bands(image, _count_band_rows(image))
        largest = max(_read_floats(band).max() for band in bands)
        return _convert_fractions if largest <= 1 else _convert_floats
    return _convert


def _convert(band: Image.Image) -> Image.Image:
    if band.mode == "RGB":
        return band
    with translate_pillow_errors():  # Pillow cannot convert every mode that it reads
        return band.convert("RGB")


def _convert_16_bits(band: Image.Image) -> Image.Image:
    import numpy as np  # imported here: it takes 20 MB and 0.1 s, and few files need it

    return _make_grey(np.asarray(band) >> 8)


def _convert_integers(band: Image.Image) -> Image.Image:
    import numpy as np

    return _make_grey(np.clip(np.asarray(band), 0, 65535) >> 8)


def _read_floats(band: Image.Image) -> "NDArray[np.float32]":
    import numpy as np

    samples: NDArray[np.float32] = np.array(band)
    np.nan_to_num(samples, copy=False)
    return samples


def _convert_floats(band: Image.Image) -> Image.Image:
    samples = _read_floats(band)
    return _make_grey(samples.clip(0, 255, out=samples))


def _convert_fractions(band: Image.Image) -> Image.Image:
    samples = _read_floats(band)
    samples *= 255
    return _make_grey(samples.clip(0, 255, out=samples))


def _make_grey(samples: "NDArray[Any]") -> Image.Image:
    return Image.fromarray(samples.astype("uint8")).convert("RGB")
