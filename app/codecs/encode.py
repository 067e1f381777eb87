"""Encodes a mask as an indexed PNG, JSON, a NumPy array or bare bytes.

Knows nothing of HTTP, nor of how an answer is sent.
"""

import io

import numpy as np
from numpy.lib import format as npy

from app.codecs import jsonmask
from app.codecs.png import make_indexed_png
from app.formats import AnswerFormat
from model.engines.base import Array
from model.weights import Metadata, colormap


def encode_mask(mask: Array, answer: AnswerFormat, metadata: Metadata) -> bytes:
    """Return the answer's body for a mask (H, W) of class indices."""
    if answer is AnswerFormat.PNG:
        return encode_png(mask, metadata)
    if answer is AnswerFormat.NPY:
        return encode_npy(mask)
    if answer is AnswerFormat.RAW:
        return mask.tobytes()
    return encode_json(mask, metadata)


def encode_png(mask: Array, metadata: Metadata) -> bytes:
    """Return an indexed PNG: the pixels are class indices, the palette has the classes' colours."""
    return make_indexed_png(mask, colormap(metadata))


def encode_npy(mask: Array) -> bytes:
    # `numpy.save` writes in pieces, which takes twice the time.
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
