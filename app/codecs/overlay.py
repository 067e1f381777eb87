"""The overlay: a photo blended with the colours of its classes. Knows nothing of HTTP."""

import numpy as np
import simplejpeg

from app.codecs.jsonmask import split
from app.errors import InvalidParameter
from model.engines.base import Array

QUALITY = 90
"""The JPEG's quality, from 0 to 100."""

MAX_JPEG_SIDE = 65500
"""The longest side that libjpeg can write, in pixels."""


def blend(photo: Array, mask: Array, palette: Array, alpha: float) -> Array:
    """Blend the classes' colours into a photo (H, W, 3), in place, and return it.

    A pixel becomes `alpha` times the colour of its class in the palette (N, 3) plus `1 - alpha`
    times its own colour. Pixels of index 0 are unchanged.
    """
    weight = round(256 * alpha)
    colours = palette.astype(np.uint16) * weight + 128
    for part in split((mask.shape[0], mask.shape[1])):
        classes, pixels = mask[part], photo[part]
        mixed = pixels.astype(np.uint16)
        mixed *= 256 - weight
        mixed += colours[classes]
        mixed >>= 8
        np.copyto(pixels, mixed, casting="unsafe", where=(classes != 0)[..., None])
    return photo


def encode_jpeg(pixels: Array) -> bytes:
    """Return a JPEG of RGB pixels (H, W, 3). Raises InvalidParameter if a side is too long."""
    height, width, _ = pixels.shape
    if max(height, width) > MAX_JPEG_SIDE:
        raise InvalidParameter(
            f"A JPEG cannot have {width} x {height} pixels; the limit of a side is "
            f"{MAX_JPEG_SIDE}.",
            remedy="Accept image/png.",
        )
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=QUALITY)
    return data
