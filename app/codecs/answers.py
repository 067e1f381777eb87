"""The answers: small ones are encoded whole, large ones in pieces while they are sent.

A mask compresses to a hundredth of its size, while its JSON is twice as large. So while a slow
client reads, only the compressed mask is kept. Knows nothing of HTTP's messages.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from app.codecs import encode, jsonmask
from app.codecs.deflate import GZIP, LEVEL, compress, compressobj, decompress
from app.codecs.png import make_grey_png
from app.formats import AnswerFormat, AnswerOptions
from model.engines.base import Array, Size
from model.weights import Metadata

WHOLE_BYTES = 2**20
"""An answer of at most this size is encoded whole, such as any for a megapixel except JSON."""

GZIP_BYTES = 2**16
"""Larger JSON, NumPy and raw answers are compressed if the client accepts gzip."""

PIECE_BYTES = 2**18
"""The smallest size of a piece; the next one is encoded when the client has received it."""

LARGEST_PIECE_BYTES = PIECE_BYTES + 5 * jsonmask.PART_PIXELS
"""The largest size of a piece: its last part may have a row `[12],` for every pixel."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An encoded answer: `whole`, or `pieces` that are encoded lazily, on a codec thread."""

    size_bytes: int
    held_bytes: int
    """The largest number of bytes that it holds in memory while it is sent."""
    whole: bytes | None = None
    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))
    encoding: str | None = None
    """The value of the Content-Encoding header, None without one."""
    mask_size: Size = (0, 0)


def make_answer(
    mask: Array, options: AnswerOptions, metadata: Metadata, *, photo: Array | None = None
) -> Answer:
    """Encode the answer for a mask (H, W) of class indices.

    An overlay needs the photo (H, W, 3), which is overwritten. For `confidence`, `mask` is the
    confidence instead. Raises TooCostly for too many polygons, and InvalidParameter for a JPEG with
    too long a side.
    """
    if options.kept is not None:
        mask = encode.keep_classes(mask, options.kept)
    size = mask.shape[0], mask.shape[1]
    if options.format is AnswerFormat.CONFIDENCE:
        made = _make_whole(make_grey_png(mask))
    elif options.format is AnswerFormat.OVERLAY:
        assert photo is not None, "an overlay needs the photo"
        made = _make_whole(encode.encode_overlay(photo, mask, options, metadata))
    elif options.format in (AnswerFormat.RLE, AnswerFormat.POLYGONS):
        made = _make_text(encode.encode_mask(mask, options.format, metadata), options)
    else:
        made = _encode(mask, options, metadata)
    return replace(made, mask_size=size)


def _make_text(text: bytes, options: AnswerOptions) -> Answer:
    if options.accepts_gzip and len(text) > GZIP_BYTES:
        return _make_whole(_compress(iter((text,))), encoding="gzip")
    return _make_whole(text)


def _encode(mask: Array, options: AnswerOptions, metadata: Metadata) -> Answer:
    is_small = mask.size <= GZIP_BYTES // 8  # even JSON has at most six bytes per pixel
    if options.format is AnswerFormat.PNG or is_small:
        return _make_whole(encode.encode_mask(mask, options.format, metadata))
    writer = _make_writer(mask, options.format, metadata)
    if options.accepts_gzip and writer.size_bytes > GZIP_BYTES:
        return _make_whole(_compress(writer.write(mask)), encoding="gzip")
    return make_in_pieces(mask, writer)


def make_in_pieces(mask: Array, writer: "Writer") -> Answer:
    """Return the answer that the writer writes: in pieces, unless it is small."""
    size = mask.shape[0], mask.shape[1]
    if writer.size_bytes <= WHOLE_BYTES:
        return replace(_make_whole(b"".join(writer.write(mask))), mask_size=size)
    packed = [compress(np.ascontiguousarray(mask[part]), LEVEL) for part in jsonmask.split(size)]
    pieces = join_pieces(writer.write(PackedMask(packed, size)))
    held_bytes = sum(map(len, packed)) + 2 * LARGEST_PIECE_BYTES
    return Answer(writer.size_bytes, held_bytes, pieces=pieces, mask_size=size)


def _make_writer(mask: Array, answer_format: AnswerFormat, metadata: Metadata) -> "Writer":
    if answer_format is AnswerFormat.JSON:
        return _JsonWriter(mask, metadata)
    has_header = answer_format is AnswerFormat.NPY
    return ArrayWriter(mask, encode.make_npy_header(mask) if has_header else b"")


def _make_whole(data: bytes, *, encoding: str | None = None) -> Answer:
    return Answer(len(data), len(data), whole=data, encoding=encoding)


def _compress(texts: Iterator[bytes]) -> bytes:
    packer = compressobj(LEVEL, wbits=GZIP)
    return b"".join([*(packer.compress(text) for text in texts), packer.flush()])


def join_pieces(texts: Iterator[bytes]) -> Iterator[bytes]:
    """Join texts into pieces of at least PIECE_BYTES; only the last one may be smaller."""
    gathered: list[bytes] = []
    for text in texts:
        gathered.append(text)
        if sum(map(len, gathered)) >= PIECE_BYTES:
            yield b"".join(gathered)
            gathered.clear()
    if gathered:
        yield b"".join(gathered)


class PackedMask:
    """A compressed mask. Its parts can be read like an array's, but only once and in order."""

    def __init__(self, packed: list[bytes], size: Size) -> None:
        self._parts = iter(packed)
        self.size = size

    def __getitem__(self, part: tuple[slice, slice]) -> Array:
        rows, columns = part
        pixels = np.frombuffer(decompress(next(self._parts)), np.uint8)
        return pixels.reshape(rows.stop - rows.start, columns.stop - columns.start)


class Writer(Protocol):
    """Writes an answer whose size is known before."""

    size_bytes: int

    def write(self, mask: Array | PackedMask) -> Iterator[bytes]:
        """Yield the answer in parts, each of them encoded when it is needed."""
        ...


class ArrayWriter:
    """Writes a header, and then a mask's bytes row by row."""

    def __init__(self, mask: Array, head: bytes) -> None:
        self._size = mask.shape[0], mask.shape[1]
        self._head = head
        self.size_bytes = len(self._head) + mask.size

    def write(self, mask: Array | PackedMask) -> Iterator[bytes]:
        yield self._head
        for part in jsonmask.split(self._size):
            yield mask[part].tobytes()


class _JsonWriter:
    """Writes a mask as JSON."""

    def __init__(self, mask: Array, metadata: Metadata) -> None:
        self._size = mask.shape[0], mask.shape[1]
        counts = jsonmask.count(mask)
        self._head, self._tail = jsonmask.make_ends(self._size, counts, metadata)
        self.size_bytes = (
            len(self._head) + jsonmask.count_bytes(self._size, counts) + len(self._tail)
        )

    def write(self, mask: Array | PackedMask) -> Iterator[bytes]:
        yield self._head
        for rows, columns in jsonmask.split(self._size):
            yield jsonmask.format_part(mask[rows, columns], rows, columns, self._size[1])
        yield self._tail
