"""A mask on its way to its caller: small answers whole, large ones compressed until they are sent.

A mask compresses to a hundredth, its JSON is twice as large as itself: what is held for a caller
who reads slowly is the compressed one. Knows nothing of HTTP's messages.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from app.codecs import encode, jsonmask
from app.codecs.png import LEVEL
from app.formats import AnswerFormat
from model.engines.base import Array, Size
from model.weights import Metadata

try:
    from isal.isal_zlib import compress, compressobj, decompress
except ImportError:  # as in `png`
    from zlib import compress, compressobj, decompress  # type: ignore[assignment]

WHOLE_BYTES = 2**20
"""Up to so many an answer is made whole. That of a photo of a megapixel is, but as JSON."""

GZIP_BYTES = 2**16
"""From so many JSON and NumPy arrays are compressed for those who accept it."""

PIECE_BYTES = 2**18
"""As soon as it has so many a piece is sent; the next is made when its caller has taken it."""

LARGEST_PIECE_BYTES = PIECE_BYTES + 5 * jsonmask.PART_PIXELS
"""Of the text of a last part whose every row is `[12],`."""

GZIP = 16 + 15
"""zlib's window bits for the gzip format."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`whole`, or in `pieces` that are made when they are asked for: not in the event loop."""

    size_bytes: int
    held_bytes: int
    """At most, until its caller has taken the last byte."""
    whole: bytes | None = None
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))
    encoding: str | None = None
    """The Content-Encoding."""


def make_answer(
    mask: Array, answer: AnswerFormat, metadata: Metadata, *, accepts_gzip: bool = False
) -> Answer:
    """For a mask (H, W) of class indices."""
    size = mask.shape[0], mask.shape[1]
    if answer is AnswerFormat.PNG or mask.size <= GZIP_BYTES // 8:
        return _whole(encode.encode_mask(mask, answer, metadata))
    writer = _JsonWriter(mask, metadata) if answer is AnswerFormat.JSON else _NpyWriter(mask)
    if accepts_gzip and writer.size_bytes > GZIP_BYTES:
        return _whole(_gzipped(writer.texts(mask)), encoding="gzip")
    if writer.size_bytes <= WHOLE_BYTES:
        return _whole(encode.encode_mask(mask, answer, metadata))
    packed = [compress(np.ascontiguousarray(mask[part]), LEVEL) for part in jsonmask.parts(size)]
    pieces = _joined(writer.texts(_Unpacked(packed, size)))
    held_bytes = sum(map(len, packed)) + 2 * LARGEST_PIECE_BYTES
    return Answer(writer.size_bytes, held_bytes, pieces=pieces)


def _whole(data: bytes, *, encoding: str | None = None) -> Answer:
    return Answer(len(data), len(data), whole=data, encoding=encoding)


def _gzipped(texts: Iterator[bytes]) -> bytes:
    packer = compressobj(LEVEL, wbits=GZIP)
    return b"".join([*(packer.compress(text) for text in texts), packer.flush()])


def _joined(texts: Iterator[bytes]) -> Iterator[bytes]:
    """Pieces of at least PIECE_BYTES, but for the last."""
    gathered: list[bytes] = []
    for text in texts:
        gathered.append(text)
        if sum(map(len, gathered)) >= PIECE_BYTES:
            yield b"".join(gathered)
            gathered.clear()
    if gathered:
        yield b"".join(gathered)


class _Unpacked:
    """Reads like the mask, part after part, from its compressed parts."""

    def __init__(self, packed: list[bytes], size: Size) -> None:
        self._parts = iter(packed)
        self.size = size

    def __getitem__(self, part: tuple[slice, slice]) -> Array:
        rows, columns = part
        pixels = np.frombuffer(decompress(next(self._parts)), np.uint8)
        return pixels.reshape(rows.stop - rows.start, columns.stop - columns.start)


class _NpyWriter:
    def __init__(self, mask: Array) -> None:
        self._size = mask.shape[0], mask.shape[1]
        self._head = encode.make_npy_header(mask)
        self.size_bytes = len(self._head) + mask.size

    def texts(self, mask: Array | _Unpacked) -> Iterator[bytes]:
        yield self._head
        for part in jsonmask.parts(self._size):
            yield mask[part].tobytes()


class _JsonWriter:
    def __init__(self, mask: Array, metadata: Metadata) -> None:
        self._size = mask.shape[0], mask.shape[1]
        counts = jsonmask.count(mask)
        self._head, self._tail = jsonmask.around(self._size, counts, metadata)
        self.size_bytes = (
            len(self._head) + jsonmask.length_bytes(self._size, counts) + len(self._tail)
        )

    def texts(self, mask: Array | _Unpacked) -> Iterator[bytes]:
        yield self._head
        for rows, columns in jsonmask.parts(self._size):
            yield jsonmask.part_text(mask[rows, columns], rows, columns, self._size[1])
        yield self._tail
