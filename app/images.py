"""From an upload's bytes to RGB pixels, and from a mask to the bytes of an answer.

Runs in worker threads; knows nothing of HTTP but the problems that it raises.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.lib import format as npy
from PIL.JpegImagePlugin import JpegImageFile

from app import jsonmask
from app.accept import AnswerFormat
from app.containers import essential
from app.pictures import UPRIGHT, Picture, Upload, opened, require_modest
from app.png import indexed_png
from model.engines.base import Array, Size
from model.scaling import content_size
from model.weights import Metadata, colormap


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upload, upright: `pixels` RGB (h, w, 3) uint8, scaled down as asked; `size` its own."""

    pixels: Array
    size: Size


def decode(
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

    In this thread, to the end: of files that cost more than their pixels, see `app.decoders`.
    """
    with opened(essential(data), max_pixels=max_pixels) as upload:
        height, width = upload.size
        reserve(height * width)
        require_modest(upload, max_pixels)
        content = content_size(upload.size, max_side)
        pixels = _straight(upload) if content == upload.size else None
        if pixels is not None:
            return Decoded(pixels, upload.size)
        picture = upload.picture(content)
        return Decoded(_pixels(picture), picture.size)


def _straight(upload: Upload) -> Array | None:
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


def _pixels(picture: Picture) -> Array:
    image = picture.image
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    top = 0
    for band in picture.bands():
        pixels[top : top + band.height] = np.asarray(band)
        top += band.height
    return pixels


def encode(mask: Array, answer: AnswerFormat, metadata: Metadata) -> bytes:
    """The answer's body for a mask (H, W) of class indices."""
    if answer is AnswerFormat.PNG:
        return encode_png(mask, metadata)
    if answer is AnswerFormat.NPY:
        return encode_npy(mask)
    return encode_json(mask, metadata)


def encode_png(mask: Array, metadata: Metadata) -> bytes:
    """An indexed PNG: its pixel values are the class indices, its palette the classes' colours."""
    return indexed_png(mask, colormap(metadata))


def encode_npy(mask: Array) -> bytes:
    # `numpy.save` goes by pieces: twice the time
    return b"".join((npy_header(mask), np.ascontiguousarray(mask).data))


def npy_header(mask: Array) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(np.ascontiguousarray(mask)))
    return file.getvalue()


def encode_json(mask: Array, metadata: Metadata) -> bytes:
    size = mask.shape[0], mask.shape[1]
    head, tail = jsonmask.around(size, jsonmask.count(mask), metadata)
    texts = (jsonmask.part_text(mask[part], *part, size[1]) for part in jsonmask.parts(size))
    return b"".join((head, *texts, tail))


def present_classes(mask: Array, classes: Sequence[str]) -> list[dict[str, object]]:
    """The classes that the mask has, in index order, with the number of their pixels."""
    return jsonmask.present(jsonmask.count(mask), classes)
