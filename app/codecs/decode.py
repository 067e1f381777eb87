"""Decodes an upload to RGB pixels in the calling thread.

Knows nothing of HTTP, or of the processes that decode other files than ordinary JPEGs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from app.codecs.costs import require_modest
from app.codecs.pictures import Picture, Upload, open_upload
from app.codecs.rgb import convert_in_bands
from app.codecs.stripping import strip_file
from model.engines.base import Array, Size
from model.pictures import UPRIGHT
from model.scaling import UNSCALED, Scaling, find_content_size


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright upload: `pixels` (h, w, 3) uint8 RGB, scaled down; `size` is its original size."""

    pixels: Array
    size: Size


def decode_image(
    data: bytes,
    *,
    max_pixels: int,
    scaling: Scaling = UNSCALED,
    reserve: Callable[[int], None] = lambda _: None,
) -> Decoded:
    """Decode the first frame, upright, as RGB, and scale it down if it is too large.

    Transparency is dropped; 16-bit samples keep their upper eight bits. The pixel limit is checked
    before anything is decoded; then `reserve` is called with the number of pixels, and may raise.
    Raises UnsupportedType, TooManyPixels and BrokenImage.

    This call cannot be interrupted; `app.codecs.decoders` is for files that may take longer.
    """
    with open_upload(strip_file(data), max_pixels=max_pixels) as upload:
        height, width = upload.size
        reserve(height * width)
        require_modest(upload.image, upload.data, max_pixels=max_pixels)
        content = find_content_size(upload.size, scaling)
        pixels = decode_jpeg(upload) if content == upload.size else None
        if pixels is not None:
            return Decoded(pixels, upload.size)
        picture = upload.decode(content)
        return Decoded(_read_pixels(picture), picture.size)


def decode_jpeg(upload: Upload) -> Array | None:
    """Decode an upright RGB or grey JPEG with simplejpeg; return None if it needs Pillow.

    Both use libjpeg-turbo and give the same pixels, but simplejpeg decodes into the array, while
    Pillow makes two copies. Pillow decodes files with warnings.
    """
    if not isinstance(upload.image, JpegImageFile) or upload.image.mode not in ("RGB", "L"):
        return None
    if upload.orientation in UPRIGHT:
        return None
    # Allocated for the size that was checked: a file with another size inside does not fit.
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
    for band in convert_in_bands(picture.image):
        pixels[top : top + band.height] = np.asarray(band)
        top += band.height
    return pixels
