"""Limits the cost of decoding a TIFF, which is estimated before anything is decoded.

A TIFF may divide its picture into strips or tiles of any size, anywhere in the file, and each of
their rows may cost more than its pixels. Reads only the directory and the headers of JPEGs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PLANAR_CONFIGURATION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    TILEBYTECOUNTS,
    TILELENGTH,
    TILEOFFSETS,
    TILEWIDTH,
    TiffImageFile,
)  # fmt: skip

from app.codecs.jpegs import FRAME, estimate_scans_s
from app.codecs.stripping import MAX_OFFSETS
from app.errors import BrokenImage, TooCostly, TooManyPixels

MAX_COVER = 2
"""A TIFF's strips and tiles may cover this multiple of the pixel limit, because they may extend
beyond the picture. A tile of 30000 x 30000 pixels takes 900 MB, even if the picture has 16 x 16.
"""

BLOCK_S = 10e-6
"""The time to begin a strip or tile; measured were 8 us for a JPEG, and less for others."""

ROW_S = 0.1e-6
FAX_ROW_S = 1.5e-6
"""The time for a row of a strip or tile. In a fax (CCITT), each row may have an error that libtiff
reports: 1.2 us were measured.
"""

BYTE_S = 8e-9
"""The time for a byte of samples, or for a pixel that has less than a byte."""

MAX_FAX_WIDTH = 2**20
"""The limit of the pixels in a row of a fax. libtiff takes up to 16 bytes for each of them, besides
the picture: a file of 174 bytes with one row of 25 megapixels took 483 MiB.
"""

FAXES = ("tiff_ccitt", "group3", "group4", "tiff_raw_16")
OLD_JPEG = "tiff_jpeg"
"""The JPEG compression of TIFF 6.0, whose data may be outside of the strips. The newer compression
has a JPEG in each strip or tile.
"""

JPEGS = ("jpeg", OLD_JPEG)
SAVE_AGAIN = "Save it again, in strips of several rows, or as PNG."


@dataclass(frozen=True, slots=True)
class Layout:
    """The blocks of a TIFF, which are its strips or its tiles."""

    blocks: int
    width: int
    """The width of each block, in pixels."""
    rows: int
    """The sum of the rows of all blocks, including blocks beside each other."""
    pixels: int
    """The sum of the pixels of all blocks, including those outside the picture."""
    pixel_bytes: float


def require_modest_tiff(
    image: TiffImageFile, data: bytes, *, max_pixels: int, max_seconds: float
) -> None:
    """Raise if decoding may take more than `max_seconds`, or the memory of many more pixels.

    Raises BrokenImage, TooManyPixels and TooCostly.
    """
    if image.tile[0].codec_name != "libtiff":  # uncompressed: Pillow copies the samples
        _require_little_cover(_count_raw_pixels(image), max_pixels)
        return
    layout = _read_layout(image)
    _require_little_cover(layout.pixels, max_pixels)
    blocks = list(_list_blocks(image, len(data)))
    if max(layout.blocks, len(blocks)) > MAX_OFFSETS:
        raise BrokenImage(
            f"The TIFF has {layout.blocks} strips or tiles, the limit is {MAX_OFFSETS}.",
            remedy=SAVE_AGAIN,
        )
    _require_separate(blocks)
    compression = image.info["compression"]
    row_s = ROW_S
    if compression in FAXES:
        _require_short_rows(layout.width)
        row_s = FAX_ROW_S
    seconds = layout.blocks * BLOCK_S + layout.rows * row_s
    seconds += layout.pixels * max(1, layout.pixel_bytes) * BYTE_S
    if compression in JPEGS:
        jpegs = [data] if compression == OLD_JPEG else [data[start:end] for start, end in blocks]
        for jpeg in jpegs:
            _require_small_frames(jpeg, max_pixels)
            seconds += estimate_scans_s(jpeg, layout.pixels // len(jpegs))
            if seconds > max_seconds:
                break
    if seconds > max_seconds:
        raise TooCostly(
            f"The TIFF may take {seconds:.1f} s to decode, the limit for its size is "
            f"{max_seconds:.1f} s: {layout.blocks} strips or tiles have {layout.rows} rows in all.",
            remedy=SAVE_AGAIN,
        )


def _count_raw_pixels(image: TiffImageFile) -> int:
    boxes = (tile.extents or (0, 0, 0, 0) for tile in image.tile)
    planes = len(image.getbands())  # may be stored one after the other
    return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) // planes


def _read_layout(image: TiffImageFile) -> Layout:
    """Raise BrokenImage if libtiff and Pillow could interpret the directory differently."""
    width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    bits = _read_numbers(image, BITSPERSAMPLE, (1,))
    samples = max(_read_side(image, SAMPLESPERPIXEL, 1), len(bits))
    planes = samples if image.tag_v2.get(PLANAR_CONFIGURATION, 1) == 2 else 1
    if _is_tiled(image):
        across, down = _read_side(image, TILEWIDTH), _read_side(image, TILELENGTH)
        blocks = -(-width // across) * -(-height // down) * planes
        rows = blocks * down
    else:
        across, down = width, min(height, _read_side(image, ROWSPERSTRIP, height))
        blocks = -(-height // down) * planes
        rows = height * planes
    pixel_bytes = max(bits) * samples / planes / 8
    return Layout(blocks, across, rows, rows * across, pixel_bytes)


def _is_tiled(image: TiffImageFile) -> bool:
    return TILEWIDTH in image.tag_v2 or TILELENGTH in image.tag_v2


def _read_side(image: TiffImageFile, tag: int, default: int = 0) -> int:
    value = image.tag_v2.get(tag, default)
    if not isinstance(value, int) or value <= 0:
        raise BrokenImage(f"The TIFF's tag {tag} is not a positive number.", remedy=SAVE_AGAIN)
    return value


def _read_numbers(image: TiffImageFile, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    values = image.tag_v2.get(tag, default)
    if not isinstance(values, tuple) or not all(isinstance(value, int) for value in values):
        raise BrokenImage(f"The TIFF's tag {tag} has no whole numbers.", remedy=SAVE_AGAIN)
    return values


def _list_blocks(image: TiffImageFile, file_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of each strip or tile that the file declares, in its order.

    One without a length may reach the end of the file.
    """
    if STRIPOFFSETS in image.tag_v2 and TILEOFFSETS in image.tag_v2:
        raise BrokenImage("The TIFF has strips and tiles.", remedy=SAVE_AGAIN)
    for offsets, counts in ((STRIPOFFSETS, STRIPBYTECOUNTS), (TILEOFFSETS, TILEBYTECOUNTS)):
        starts = _read_numbers(image, offsets, ())
        lengths = _read_numbers(image, counts, (file_bytes,) * len(starts))
        lengths += (0,) * (len(starts) - len(lengths))
        for start, length in zip(starts, lengths, strict=False):
            yield start, min(start + length, file_bytes)


def _require_separate(blocks: list[tuple[int, int]]) -> None:
    """Raise BrokenImage if the same bytes would be decoded more than once."""
    filled = sorted(block for block in blocks if block[0] < block[1])
    if any(left[1] > right[0] for left, right in pairwise(filled)):
        raise BrokenImage("The TIFF's strips or tiles overlap in the file.", remedy=SAVE_AGAIN)


def _require_little_cover(pixels: int, max_pixels: int) -> None:
    """Raise TooManyPixels if the strips or tiles cover too much, because each is decoded whole."""
    limit = MAX_COVER * max_pixels
    if pixels > limit:
        raise TooManyPixels(
            f"The TIFF's strips or tiles cover {pixels} pixels, the limit is {limit}.",
            remedy="Save it with smaller tiles, or as PNG.",
        )


def _require_short_rows(width: int) -> None:
    """Raise TooCostly if a row of a fax would take much memory besides the picture."""
    if width > MAX_FAX_WIDTH:
        raise TooCostly(
            f"The fax in the TIFF has rows of {width} pixels, the limit is {MAX_FAX_WIDTH}.",
            remedy="Save it as PNG.",
        )


def _require_small_frames(data: bytes, max_pixels: int) -> None:
    """Raise TooManyPixels if a JPEG in the TIFF is too large.

    The JPEG of the last strip may be higher than the strip: libtiff only warns, and decodes a
    progressive one whole. A file of 1 kB took 933 MB.
    """
    for frame in FRAME.finditer(data):
        height, width = (int.from_bytes(frame[number], "big") for number in (2, 3))
        if width * height > max_pixels:
            raise TooManyPixels(
                f"A JPEG in the TIFF has {width} x {height} = {width * height} pixels, "
                f"the limit is {max_pixels}.",
                remedy="Save it again, or as PNG.",
            )
