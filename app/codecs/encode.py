"""Encodes a mask in each answer format.

Knows nothing of HTTP, or of how an answer is sent.
"""

import io
from collections.abc import Sequence

import numpy as np
from numpy.lib import format as npy

from app.codecs import jsonmask
from app.codecs.objects import encode_polygons, encode_rle
from app.codecs.overlay import blend, encode_jpeg
from app.codecs.png import make_indexed_png, make_rgb_png
from app.formats import JPEG, AnswerFormat, AnswerOptions
from model.engines.base import Array
from model.weights import Metadata, get_colormap


def encode_mask(mask: Array, answer_format: AnswerFormat, metadata: Metadata) -> bytes:
    """Return the body of an answer that needs only the mask (H, W) of class indices.

    Raises TooCostly for a mask with too many polygons.
    """
    match answer_format:
        case AnswerFormat.PNG:
            return encode_png(mask, metadata)
        case AnswerFormat.JSON:
            return encode_json(mask, metadata)
        case AnswerFormat.NPY:
            return encode_npy(mask)
        case AnswerFormat.RAW:
            return mask.tobytes()
        case AnswerFormat.RLE:
            return encode_rle(mask, metadata)
        case AnswerFormat.POLYGONS:
            return encode_polygons(mask, metadata)
    raise AssertionError(f"{answer_format} needs more than the mask")


def encode_overlay(photo: Array, mask: Array, options: AnswerOptions, metadata: Metadata) -> bytes:
    """Return a photo (H, W, 3), which is overwritten, with the classes' colours, as PNG or JPEG.

    Raises InvalidParameter for a JPEG with too long a side.
    """
    pixels = blend(photo, mask, get_colormap(metadata), options.alpha)
    return encode_jpeg(pixels) if options.media_type == JPEG else make_rgb_png(pixels)


def keep_classes(mask: Array, kept: Sequence[int]) -> Array:
    """Return the mask with index 0 instead of every class that is not kept."""
    indices = np.zeros(256, np.uint8)
    indices[list(kept)] = kept
    reduced = np.empty_like(mask)
    for part in jsonmask.split((mask.shape[0], mask.shape[1])):
        reduced[part] = indices[mask[part]]
    return reduced


def encode_png(mask: Array, metadata: Metadata) -> bytes:
    """Return an indexed PNG: the pixels are class indices, the palette has the classes' colours."""
    return make_indexed_png(mask, get_colormap(metadata))


def encode_npy(mask: Array) -> bytes:
    # `numpy.save` takes twice the time, because it writes in pieces.
    return b"".join((make_npy_header(mask), np.ascontiguousarray(mask).data))


def make_npy_header(mask: Array) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(np.ascontiguousarray(mask)))
    return file.getvalue()


def encode_json(mask: Array, metadata: Metadata) -> bytes:
    size = mask.shape[0], mask.shape[1]
    head, tail = jsonmask.make_ends(size, jsonmask.count(mask), metadata)
    texts = (jsonmask.format_part(mask[part], *part, size[1]) for part in jsonmask.split(size))
    return b"".join((head, *texts, tail))
