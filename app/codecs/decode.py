"""From an upload's bytes to RGB pixels, in the thread that calls.

Knows nothing of HTTP, nor of the processes that decode what is not an ordinary JPEG.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from app.codecs.containers import essential
from app.codecs.pictures import UPRIGHT, Picture, Upload, opened, require_modest
from model.engines.base import Array, Size
from model.scaling import content_size


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upload, upright: `pixels` RGB (h, w, 3) uint8, scaled down as asked; `size` its own."""

    pixels: Array
    size: Size


def decode_image(
    data: bytes,
    *,
    max_pixels: int,
    max_side: int = 0,
    reserve: Callable[[int], None] = lambda _: None,
) -> Decoded:
    """The first frame, upright, as RGB; scaled down if its longer side exceeds `max_side` (0: no).

    Transparency is dropped, 16-bit samples keep their upper eight bits. The pixel limit is checked
    from the header, before anything is decoded; `reserve` then gets the number of pixels, and may
    refuse it. Raises UnsupportedType, TooManyPixels, BrokenImage.

    Nothing can interrupt it: `app.codecs.decoders` has what can, for files that may cost more.
    """
    with opened(essential(data), max_pixels=max_pixels) as upload:
        height, width = upload.size
        reserve(height * width)
        require_modest(upload, max_pixels)
        content = content_size(upload.size, max_side)
        pixels = _decode_jpeg(upload) if content == upload.size else None
        if pixels is not None:
            return Decoded(pixels, upload.size)
        picture = upload.picture(content)
        return Decoded(_read_pixels(picture), picture.size)


def _decode_jpeg(upload: Upload) -> Array | None:
    """An upright RGB or grey JPEG, decoded past Pillow; None where Pillow has to see to it.

    The same library decodes, libjpeg-turbo, and to the same pixels; but it writes them straight
    into the array, where Pillow goes by two copies. Whatever it so much as warns of is Pillow's
    to accept or refuse.
    """
    if not isinstance(upload.image, JpegImageFile) or upload.image.mode not in ("RGB", "L"):
        return None
    if upload.orientation in UPRIGHT:
        return None
    # Of the size that was held against the limit: a file that tells two sizes does not fit.
    pixels = np.empty((*upload.size, 3), np.uint8)
    try:
        decoded: Array = simplejpeg.decode_jpeg(upload.data, buffer=pixels)
    except ValueError:
        return None
    return decoded if decoded.shape == pixels.shape else None


def _read_pixels(picture: Picture) -> Array:
    image = picture.image
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    top = 0
    for band in picture.bands():
        pixels[top : top + band.height] = np.asarray(band)
        top += band.height
    return pixels
