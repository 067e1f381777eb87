"""What of an image file its first picture's pixels need; the rest is left out before it is decoded.

A reader's costs are not in a file's pixels alone: 43 bytes of a GIF can ask for 4 GB, a megabyte of
empty JPEG segments becomes 40 MB of Python objects, a TIFF can show one strip a million times. So a
decoder gets neither metadata nor further pictures, and a file of very many parts is refused after a
walk over the first of them. Knows how the formats are put together; decodes nothing.
"""

import re
import struct
from collections.abc import Iterator

from app.errors import BrokenImage, UnsupportedType
from app.formats import SUPPORTED

MAX_PARTS = 2**16
"""Segments, chunks, blocks or tags that are walked over: some 50 ms. A PNG of 32 MiB in pieces of
8 KiB, as libpng writes it, has 4096.
"""

MAX_OFFSETS = 2**16
"""Strips or tiles of a TIFF: one a row in a picture of that height."""

MAX_COLOURS = 3 * 256
MAX_VALUES = 16
"""Of any other TIFF tag that matters: bits of each sample, coefficients, tables of an old JPEG."""

JPEG_START = b"\xff\xd8\xff"
START_OF_SCAN = 0xDA
JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
PNG_EXIF = b"eXIf"
GIF_DISPOSAL = 0b11100

TIFF_STARTS = frozenset(
    letters + version for letters in (b"II", b"MM") for version in (b"*\0", b"\0*", b"+\0", b"\0+")
)
"""Pillow takes the version in the wrong order of bytes, too."""

TIFF_OFFSETS = frozenset({273, 279, 324, 325})  # where strips and tiles are, and how long
TIFF_COLOURS = 320
TIFF_JPEG_TABLES = 347
TIFF_TAGS = TIFF_OFFSETS | {
    256, 257, 258, 259, 262, 266, 274, 277, 278, 284,  # the picture and its samples
    292, 293, 317, TIFF_COLOURS, 322, 323, 332, 338, 339,  # how they are stored
    TIFF_JPEG_TABLES, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,  # JPEG
}  # fmt: skip
TIFF_INTEGERS = frozenset({3, 4, 16})
"""The types SHORT, LONG and LONG8."""

ORIENTATION = 274


STARTS = (JPEG_START, b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", *TIFF_STARTS)


def require_known(data: bytes) -> None:
    """Raises UnsupportedType for what does not begin like a file of a supported format."""
    if not data.startswith(STARTS) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        raise UnsupportedType(
            f"The {len(data)} bytes are not an image of a supported format.",
            remedy=f"Send {SUPPORTED}.",
        )


def essential(data: bytes) -> bytes:
    """The same file or a smaller one, with the same first picture and its EXIF orientation.

    Raises BrokenImage for one that is not put together as its format wants, or of too many parts.
    """
    try:
        if data.startswith(JPEG_START):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return _gif(data)
        if data[:4] in TIFF_STARTS:
            return _tiff(data)
    except (IndexError, OverflowError, struct.error) as error:
        raise BrokenImage("The image ends within its header.", remedy=SENT_WHOLE) from error
    return data


SENT_WHOLE = "Check that the file opens elsewhere and was sent whole."


class _Budget:
    """Parts that may still come."""

    def __init__(self) -> None:
        self._left = MAX_PARTS

    def take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BrokenImage(
                f"The image file has more than {MAX_PARTS} parts.",
                remedy="Save it anew, without metadata.",
            )


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Of a JPEG before its first scan, and the head of this: marker, start, end.

    What lies between two of them is padding or junk.
    """
    budget, position = _Budget(), 2
    while found := JPEG_MARKER.search(data, position):
        budget.take()
        start, marker = found.start(), found[1][0]
        if marker == 0xC8 or 0xD0 <= marker <= 0xD9 or 0xF0 <= marker <= 0xFD or marker < 0xC0:
            position = found.end()  # these have no content
        else:
            (length,) = struct.unpack_from(">H", data, start + 2)
            position = start + 2 + length
            if marker != START_OF_SCAN and (length < 2 or position > len(data)):
                raise BrokenImage("A segment of the JPEG has no end.", remedy=SENT_WHOLE)
        yield marker, start, position
        if marker == START_OF_SCAN:
            return
    raise BrokenImage("The JPEG has no picture.", remedy=SENT_WHOLE)


def _jpeg(data: bytes) -> bytes:
    """Without comments and application segments but JFIF's and Adobe's, which tell the colours,
    and the first with EXIF. From the first scan on, the file is left as it is.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:2]]
    before, has_exif, has_dropped = 2, False, False
    for marker, start, end in segments(data):
        has_dropped |= start != before
        before = end
        if marker == START_OF_SCAN:
            parts.append(view[start:])
            break
        is_exif = marker == 0xE1 and data.startswith(b"Exif\0\0", start + 4)
        if (
            not (0xE0 <= marker <= 0xEF or marker == 0xFE)
            or (marker == 0xE0 and data.startswith(b"JFIF\0", start + 4))
            or (marker == 0xEE and data.startswith(b"Adobe", start + 4))
            or (is_exif and not has_exif)
        ):
            parts.append(view[start:end])
        else:
            has_dropped = True
        has_exif |= is_exif
    return b"".join(parts) if has_dropped else data


def _png(data: bytes) -> bytes:
    """Only header, palette, pixels, end, and the first EXIF."""
    budget, view = _Budget(), memoryview(data)
    kept = set(PNG_CHUNKS) | {PNG_EXIF}
    parts: list[bytes | memoryview] = [view[:8]]
    position, name = 8, b""
    while position + 8 <= len(data) and name != b"IEND":
        budget.take()
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if name in kept:
            parts.append(view[position:end])
        if name == PNG_EXIF:
            kept.discard(PNG_EXIF)
        position = end
    return b"".join(parts)


def _gif(data: bytes) -> bytes:
    """Only the screen, the first frame's transparent colour, and from this frame on everything."""
    budget, view = _Budget(), memoryview(data)
    position = 13 + _gif_colours(data[10])
    screen, control = view[:position], b""
    while True:
        budget.take()
        kind = data[position]
        if kind == ord(","):
            return b"".join((screen, control, view[position:]))
        if kind == ord(";"):
            raise BrokenImage("The GIF has no picture.", remedy=SENT_WHOLE)
        if kind != ord("!"):
            position += 1
            continue
        label, size = data[position + 1], data[position + 2]
        if label == 0xF9 and size >= 4:
            # Without the disposal: Pillow makes a picture for it as soon as it opens the file.
            flags = data[position + 3] & ~GIF_DISPOSAL
            control = b"!\xf9\4" + bytes((flags, 0, 0, data[position + 6])) + b"\0"
        position += 2
        while size := data[position]:
            budget.take()
            position += 1 + size
        position += 1


def _gif_colours(flags: int) -> int:
    """Bytes of the colour table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _tiff(data: bytes) -> bytes:
    """With a directory of its own behind the file, of the tags that matter; and no other."""
    order = "<" if data.startswith(b"II") else ">"
    big = data[2] == 43
    place, head, entry, value_bytes = (
        ("Q", 16, struct.Struct(order + "HHQ8s"), 8)
        if big
        else ("I", 8, struct.Struct(order + "HHI4s"), 4)
    )
    counter = struct.Struct(order + ("Q" if big else "H"))
    (position,) = struct.unpack_from(order + place, data, head - value_bytes)
    (count,) = counter.unpack_from(data, position)
    position += counter.size
    budget = _Budget()
    entries: dict[int, bytes] = {}
    for _ in range(count):
        budget.take()
        tag, kind, values, _ = entry.unpack_from(data, position)
        if tag in TIFF_TAGS and tag not in entries:
            _require_few_values(tag, kind, values)
            entries[tag] = data[position : position + entry.size]
        position += entry.size
    filled = data[head:] + b"\0" * (len(data) % 2)  # a directory begins at an even offset
    start = data[: head - value_bytes] + struct.pack(order + place, head + len(filled))
    no_other = bytes(value_bytes)
    return b"".join((start, filled, counter.pack(len(entries)), *entries.values(), no_other))


def _require_few_values(tag: int, kind: int, values: int) -> None:
    if (tag in TIFF_OFFSETS and kind in TIFF_INTEGERS) or tag == TIFF_JPEG_TABLES:
        limit = MAX_OFFSETS
    else:
        limit = MAX_COLOURS if tag == TIFF_COLOURS else MAX_VALUES
    if values > limit:
        raise BrokenImage(
            f"The TIFF's tag {tag} has {values} values, the limit is {limit}.",
            remedy="Save it anew, with fewer strips or as PNG.",
        )


def webp_size(data: bytes) -> tuple[int, int] | None:
    """The canvas' height and width (RFC 9649); None of another file, or of a shorter head."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return height, width


def orientation(exif: bytes) -> int:
    """As an EXIF block says (Exif 2.32, tag 0x0112); 1, upright, where it cannot be read."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (position,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, position)
        for number in range(count):
            tag, kind, values, value = struct.unpack_from(
                order + "HHI4s", block, position + 2 + 12 * number
            )
            if tag == ORIENTATION and kind in (3, 4) and values == 1:
                return int(struct.unpack_from(order + ("H" if kind == 3 else "I"), value)[0])
    except struct.error:
        pass
    return 1
