"""The results of several files as a ZIP archive: `results.json`, and the answer to each file.

The answers are already compressed, and are only joined here. Python's `zipfile` cannot do that: it
would have to decompress each answer and compress it again. The format is that of PKWARE's APPNOTE
6.3, without ZIP64. Knows nothing of HTTP's messages.
"""

import re
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import orjson

from app.codecs.answers import LARGEST_PIECE_BYTES, WHOLE_BYTES, Answer, join_pieces
from app.codecs.deflate import crc32
from app.codecs.listing import Result, split_bytes
from app.formats import AnswerFormat

MAX_BYTES = 2**31
"""The limit of all answers together, which is half of the format's."""

MAX_PIXELS = 2**32 // 6
"""The largest mask in an archive: its JSON may have almost six bytes per pixel."""

SUMMARY = "results.json"

STORED, DEFLATED = 0, 8
"""The compression methods."""

GZIP_HEAD_BYTES, GZIP_TAIL_BYTES = 10, 8

VERSION = 20
UTF8_NAMES = 1 << 11
ENDINGS = {AnswerFormat.NPY: "npy", AnswerFormat.RAW: "raw"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of the archive."""

    name: bytes
    packed: memoryview
    method: int
    crc: int
    plain_bytes: int

    def describe(self, moment: tuple[int, int]) -> bytes:
        """Return the fields that the entry's head and the directory have in common."""
        return struct.pack(
            "<HHHHHIIIHH",
            *(VERSION, UTF8_NAMES, self.method, *moment),
            *(self.crc, len(self.packed), self.plain_bytes, len(self.name), 0),
        )


def make_archive(results: Sequence[Result], answer_format: AnswerFormat) -> Answer:
    """Return the archive of results whose answers are whole, with or without gzip.

    An entry's name is the number of its file in the request and the file's own name.
    """
    names = {
        number: name_entry(number, result, answer_format)
        for number, result in enumerate(results, 1)
        if result.answer is not None
    }
    fields = [
        result.describe() | ({"file": names[number]} if number in names else {})
        for number, result in enumerate(results, 1)
    ]
    summary = orjson.dumps(fields, option=orjson.OPT_INDENT_2)
    entries = [_store(SUMMARY, summary)]
    for number, name in names.items():
        made = results[number - 1].answer
        assert made is not None
        assert made.whole is not None, "an answer for an archive is whole"
        entries.append(
            _unpack_gzip(name, made.whole) if made.encoding else _store(name, made.whole)
        )
    written = list(_write(entries))
    size_bytes = sum(map(len, written))
    pieces = join_pieces(chain.from_iterable(map(split_bytes, written)))
    if size_bytes <= WHOLE_BYTES:
        return Answer(size_bytes, size_bytes, whole=b"".join(pieces))
    return Answer(size_bytes, len(summary) + 2 * LARGEST_PIECE_BYTES, pieces=pieces)


def name_entry(number: int, result: Result, answer_format: AnswerFormat) -> str:
    """Return a name that every file system can store, whatever name the client has sent."""
    stem = re.split(r"[\\/]", result.name)[-1].rpartition(".")
    plain = re.sub(r"[^\w\- ]", "_", stem[0] or stem[2])[:80].strip() or "file"
    ending = ENDINGS.get(answer_format) or result.media_type.rpartition("/")[2]
    return f"{number:03}-{plain}.{ending}"


def _store(name: str, data: bytes) -> _Entry:
    return _Entry(name.encode(), memoryview(data), STORED, crc32(data), len(data))


def _unpack_gzip(name: str, data: bytes) -> _Entry:
    """Return an entry with the compressed stream of a gzip file (RFC 1952), unchanged."""
    assert data[3] == 0, "a head without optional fields"
    crc, plain_bytes = struct.unpack("<II", data[-GZIP_TAIL_BYTES:])
    packed = memoryview(data)[GZIP_HEAD_BYTES:-GZIP_TAIL_BYTES]
    return _Entry(name.encode(), packed, DEFLATED, crc, plain_bytes)


def _write(entries: Sequence[_Entry]) -> Iterator[bytes | memoryview]:
    year, month, day, hour, minute, second = time.localtime()[:6]
    moment = hour << 11 | minute << 5 | second // 2, (year - 1980) << 9 | month << 5 | day
    directory, offset = b"", 0
    for entry in entries:
        fields = entry.describe(moment)
        yield b"PK\3\4" + fields + entry.name
        yield entry.packed
        directory += b"PK\1\2" + struct.pack("<H", VERSION) + fields
        directory += struct.pack("<HHHII", 0, 0, 0, 0, offset) + entry.name
        offset += 4 + len(fields) + len(entry.name) + len(entry.packed)
    yield directory
    count = len(entries)
    yield b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), offset, 0)
