"""Strips an image file to the parts that its first picture needs, before it is decoded.

Pixels are not the only cost of a file: 43 bytes of a GIF can request 4 GB, a megabyte of empty JPEG
segments becomes 40 MB of Python objects, and a TIFF can refer to one strip a million times. So a
decoder gets neither metadata nor further pictures, and a file with too many parts is refused. Knows
the structure of the formats; decodes nothing.
"""

import re
import struct
from collections.abc import Iterator

from app.errors import BrokenImage, UnsupportedType
from app.formats import SUPPORTED

MAX_PARTS = 2**16
"""The limit of segments, chunks, blocks or tags, which take about 50 ms. A PNG of 32 MiB in chunks
of 8 KiB, as libpng writes it, has 4096.
"""

MAX_OFFSETS = 2**16
"""The limit of strips or tiles of a TIFF; a picture of that height may have one for each row."""

MAX_COLOURS = 3 * 256
MAX_VALUES = 16
"""The limit of values of any other kept TIFF tag, such as the bits of each sample."""

CHECK_FILE = "Check that the file opens elsewhere and was sent whole."
"""The remedy for a damaged file."""

JPEG_START = b"\xff\xd8\xff"
PNG_START = b"\x89PNG\r\n\x1a\n"
GIF_STARTS = (b"GIF87a", b"GIF89a")
START_OF_SCAN = 0xDA
JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
PNG_EXIF = b"eXIf"
GIF_DISPOSAL = 0b11100

TIFF_STARTS = frozenset(
    letters + version for letters in (b"II", b"MM") for version in (b"*\0", b"\0*", b"+\0", b"\0+")
)
"""Pillow also accepts the version in the wrong byte order."""

TIFF_OFFSETS = frozenset({273, 279, 324, 325})  # offsets and lengths of strips and tiles
TIFF_COLOURS = 320
TIFF_JPEG_TABLES = 347
TIFF_TAGS = TIFF_OFFSETS | {
    256, 257, 258, 259, 262, 266, 274, 277, 278, 284,  # the picture and its samples
    292, 293, 317, TIFF_COLOURS, 322, 323, 332, 338, 339,  # the storage of the samples
    TIFF_JPEG_TABLES, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,  # JPEG
}  # fmt: skip
TIFF_INTEGERS = frozenset({3, 4, 16})
"""The TIFF types SHORT, LONG and LONG8."""

STARTS = (JPEG_START, PNG_START, *GIF_STARTS, b"BM", *TIFF_STARTS)


def require_known(data: bytes) -> None:
    """Raise UnsupportedType unless the data begins like a file of a supported format."""
    if not data.startswith(STARTS) and not (data[:4] == b"RIFF" and data[8:12] == b"WEBP"):
        raise UnsupportedType(
            f"The {len(data)} bytes are not an image of a supported format.",
            remedy=f"Send {SUPPORTED}.",
        )


def strip_file(data: bytes) -> bytes:
    """Return the file without metadata and further pictures; the EXIF orientation is kept.

    Raises BrokenImage if the structure of the file is invalid, or if it has too many parts.
    """
    try:
        if data.startswith(JPEG_START):
            return _strip_jpeg(data)
        if data.startswith(PNG_START):
            return _strip_png(data)
        if data.startswith(GIF_STARTS):
            return _strip_gif(data)
        if data[:4] in TIFF_STARTS:
            return _strip_tiff(data)
    except (IndexError, OverflowError, struct.error) as error:
        raise BrokenImage("The image ends within its header.", remedy=CHECK_FILE) from error
    return data


class _PartCounter:
    """Counts the parts of a file up to MAX_PARTS."""

    def __init__(self) -> None:
        self._left = MAX_PARTS

    def count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise BrokenImage(
                f"The image file has more than {MAX_PARTS} parts.",
                remedy="Save it again, without metadata.",
            )


def iterate_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each JPEG segment up to the first scan's header.

    Bytes between two segments are padding or junk.
    """
    parts_seen, position = _PartCounter(), 2
    while found := JPEG_MARKER.search(data, position):
        parts_seen.count()
        start, marker = found.start(), found[1][0]
        if marker == 0xC8 or 0xD0 <= marker <= 0xD9 or 0xF0 <= marker <= 0xFD or marker < 0xC0:
            position = found.end()  # these have no content
        else:
            (length,) = struct.unpack_from(">H", data, start + 2)
            position = start + 2 + length
            if marker != START_OF_SCAN and (length < 2 or position > len(data)):
                raise BrokenImage("A segment of the JPEG has no end.", remedy=CHECK_FILE)
        yield marker, start, position
        if marker == START_OF_SCAN:
            return
    raise BrokenImage("The JPEG has no picture.", remedy=CHECK_FILE)


def _strip_jpeg(data: bytes) -> bytes:
    """Drop comments and application segments, except JFIF's and Adobe's and the first EXIF.

    JFIF and Adobe define the colours. From the first scan on, the file is unchanged.
    """
    view = memoryview(data)
    parts: list[bytes | memoryview] = [view[:2]]
    before, has_exif, has_dropped = 2, False, False
    for marker, start, end in iterate_segments(data):
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


def _strip_png(data: bytes) -> bytes:
    """Keep only the header, the palette, the pixels, the end, and the first EXIF."""
    parts_seen, view = _PartCounter(), memoryview(data)
    kept = set(PNG_CHUNKS) | {PNG_EXIF}
    parts: list[bytes | memoryview] = [view[:8]]
    position, name = 8, b""
    while position + 8 <= len(data) and name != b"IEND":
        parts_seen.count()
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if name in kept:
            parts.append(view[position:end])
        if name == PNG_EXIF:
            kept.discard(PNG_EXIF)
        position = end
    return b"".join(parts)


def _strip_gif(data: bytes) -> bytes:
    """Keep the screen, the first frame's transparent colour, and the data from that frame on."""
    parts_seen, view = _PartCounter(), memoryview(data)
    position = 13 + _count_colour_table_bytes(data[10])
    screen, control = view[:position], b""
    while True:
        parts_seen.count()
        kind = data[position]
        if kind == ord(","):
            return b"".join((screen, control, view[position:]))
        if kind == ord(";"):
            raise BrokenImage("The GIF has no picture.", remedy=CHECK_FILE)
        if kind != ord("!"):
            position += 1
            continue
        label, size = data[position + 1], data[position + 2]
        if label == 0xF9 and size >= 4:
            # The disposal is dropped, because Pillow would allocate a picture for it in `open`.
            flags = data[position + 3] & ~GIF_DISPOSAL
            control = b"!\xf9\4" + bytes((flags, 0, 0, data[position + 6])) + b"\0"
        position += 2
        while size := data[position]:
            parts_seen.count()
            position += 1 + size
        position += 1


def _count_colour_table_bytes(flags: int) -> int:
    """Return the number of bytes of the colour table that the flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _strip_tiff(data: bytes) -> bytes:
    """Append a new directory with the kept tags, and make it the file's only directory."""
    order = "<" if data.startswith(b"II") else ">"
    big = data[2] == 43
    layouts = ("Q", "HHQ8s", "Q") if big else ("I", "HHI4s", "H")
    offset, entry, count = (struct.Struct(order + layout) for layout in layouts)
    head_bytes = 16 if big else 8  # the last of them are the directory's offset
    (position,) = offset.unpack_from(data, head_bytes - offset.size)
    (entry_count,) = count.unpack_from(data, position)
    position += count.size
    parts_seen = _PartCounter()
    entries: dict[int, bytes] = {}
    for _ in range(entry_count):
        parts_seen.count()
        tag, kind, values, _ = entry.unpack_from(data, position)
        if tag in TIFF_TAGS and tag not in entries:
            _require_few_values(tag, kind, values)
            entries[tag] = data[position : position + entry.size]
        position += entry.size
    rest = data[head_bytes:] + b"\0" * (len(data) % 2)  # a directory begins at an even offset
    head = data[: head_bytes - offset.size] + offset.pack(head_bytes + len(rest))
    directory = count.pack(len(entries)), *entries.values(), offset.pack(0)  # no other follows
    return b"".join((head, rest, *directory))


def _require_few_values(tag: int, kind: int, values: int) -> None:
    if (tag in TIFF_OFFSETS and kind in TIFF_INTEGERS) or tag == TIFF_JPEG_TABLES:
        limit = MAX_OFFSETS
    else:
        limit = MAX_COLOURS if tag == TIFF_COLOURS else MAX_VALUES
    if values > limit:
        raise BrokenImage(
            f"The TIFF's tag {tag} has {values} values, the limit is {limit}.",
            remedy="Save it again, with fewer strips or as PNG.",
        )
