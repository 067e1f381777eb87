"""Turns a photo in any accepted form into the bytes of an image file. Knows nothing of HTTP."""

import io
import os
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.client.errors import PhotoError

Photo: TypeAlias = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[np.uint8]
"""A path, the bytes of an image file, an open file, a Pillow image, or an array of shape
(H, W, 3), (H, W, 4) or (H, W)."""


def read_photo(photo: Photo) -> bytes:
    """Return the bytes of an image file; pixels become a PNG. Raises PhotoError."""
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, np.ndarray):
        return _encode(_check_array(photo))
    if isinstance(photo, Image.Image):
        return _encode(photo)
    try:
        if isinstance(photo, str | os.PathLike):
            return Path(photo).read_bytes()
        content = photo.read()
    except OSError as error:
        raise PhotoError(f"{photo}: {error.strerror or error}") from error
    if not isinstance(content, bytes):
        raise PhotoError('the photo is open as text: open it with mode "rb"')
    return content


def _check_array(pixels: NDArray[Any]) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.size == 0:
        raise PhotoError(
            f"an array of type {pixels.dtype} and shape {pixels.shape} is not a photo: give uint8 "
            "of shape (height, width, 3)"
        )
    if pixels.ndim == 3 and pixels.shape[2] not in (3, 4):
        raise PhotoError(
            f"an array of shape {pixels.shape} has {pixels.shape[2]} channels: give RGB or RGBA, "
            "with the channels last"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _encode(image: Image.Image) -> bytes:
    """Return the image as a PNG, including its EXIF orientation."""
    file = io.BytesIO()
    if image.mode not in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
        exif, image = image.getexif(), image.convert("RGB")
        image.save(file, "PNG", compress_level=1, exif=exif)
    else:
        image.save(file, "PNG", compress_level=1, exif=image.getexif())
    return file.getvalue()
