"""From a mask and a palette to the bytes of an indexed PNG (ISO/IEC 15948).

Knows nothing of classes, images or HTTP: bytes in, bytes out.
"""

import struct

import numpy as np

from model.engines.base import Array

try:
    from isal.isal_zlib import compress, crc32
except ImportError:  # ISA-L knows x86-64 and ARM; the standard library's is the same call, slower
    from zlib import compress, crc32

SIGNATURE = b"\x89PNG\r\n\x1a\n"

LEVEL = 1
"""Of ISA-L's: 0 doubles a mask's bytes for the same time, 3 takes six times as long."""

MAX_COLOURS = 256


def indexed_png(indices: Array, palette: Array) -> bytes:
    """A PNG of 8 bits a pixel for indices (H, W), each below the number of colours (N, 3).

    Eight bits even for few colours: every reader then gives the indices as they are.
    """
    height, width = indices.shape
    assert len(palette) <= MAX_COLOURS, f"{len(palette)} colours, {MAX_COLOURS} at most"
    header = struct.pack(">2I5B", width, height, 8, 3, 0, 0, 0)
    return b"".join(
        (
            SIGNATURE,
            *_chunk(b"IHDR", header),
            *_chunk(b"PLTE", palette.tobytes()),
            *_chunk(b"IDAT", compress(_rows(indices), LEVEL)),
            *_chunk(b"IEND", b""),
        )
    )


def _rows(indices: Array) -> Array:
    """Each row behind its filter's number, 0: none.

    The filters "sub" and "up" make a mask's bytes more, not fewer: equal neighbours are what the
    compressor finds by itself.
    """
    height, width = indices.shape
    rows = np.empty((height, 1 + width), np.uint8)
    rows[:, 0] = 0
    rows[:, 1:] = indices
    return rows


def _chunk(name: bytes, content: bytes) -> tuple[bytes, ...]:
    """Its four parts, so that the content is copied only once, into the file."""
    crc = crc32(content, crc32(name))
    return struct.pack(">I", len(content)), name, content, struct.pack(">I", crc)
