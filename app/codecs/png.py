"""Encodes indices and a palette as an indexed PNG (ISO/IEC 15948).

Knows nothing of classes or HTTP.
"""

import struct

import numpy as np

from model.engines.base import Array

try:
    from isal.isal_zlib import compress, crc32
except ImportError:  # ISA-L is for x86-64 and ARM; the standard library is slower
    from zlib import compress, crc32

SIGNATURE = b"\x89PNG\r\n\x1a\n"

LEVEL = 1
"""The level of ISA-L: 0 doubles the bytes of a mask in the same time, 3 takes six times as long."""

MAX_COLOURS = 256


def make_indexed_png(indices: Array, palette: Array) -> bytes:
    """Return a PNG with 8 bits per pixel for indices (H, W) into the palette (N, 3).

    It has eight bits even for few colours, so that every reader returns the indices unchanged.
    """
    height, width = indices.shape
    assert len(palette) <= MAX_COLOURS, f"{len(palette)} colours, {MAX_COLOURS} at most"
    header = struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            *_make_chunk(b"IHDR", header),
            *_make_chunk(b"PLTE", palette.tobytes()),
            *_make_chunk(b"IDAT", compress(_filter_rows(indices), LEVEL)),
            *_make_chunk(b"IEND", b""),
        )
    )


def _filter_rows(indices: Array) -> Array:
    """Return each row behind the number of its filter, 0 for none.

    The filters "sub" and "up" enlarge a compressed mask: the compressor finds equal neighbours
    itself.
    """
    height, width = indices.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = 0
    rows[:, 1:] = indices
    return rows


def _make_chunk(name: bytes, content: bytes) -> tuple[bytes, ...]:
    """Return the four parts of a chunk; joining them copies the content only once."""
    crc = crc32(content, crc32(name))
    return struct.pack(">I", len(content)), name, content, struct.pack(">I", crc)
