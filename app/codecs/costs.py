"""Limits of what decoding may cost: files that cost much more than their pixels are refused.

Looks at headers only; decodes nothing.
"""

import math
import re

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TILELENGTH, TILEWIDTH, TiffImageFile

from app.codecs.jpegs import require_few_scans
from app.errors import BrokenImage, TooManyPixels
from model.scaling import Size

FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\0.[\x08\x0c](..)(..)", re.DOTALL)
"""The start of a frame in a JPEG: bits, height, width. Compressed samples cannot contain it."""

MAX_RUN_LENGTH_PIXELS = 2_000_000
"""The limit of a run-length coded BMP. Pillow decodes these in Python: a file of 60 bytes can take
0.12 s and 20 MB per megapixel.
"""

MAX_COVER = 2
"""A TIFF's strips and tiles may cover this multiple of the pixel limit, because they may extend
beyond the picture. A tile of 30000 x 30000 pixels takes 900 MB, even if the picture has 16 x 16.
"""


def require_few_pixels(size: Size, max_pixels: int) -> None:
    height, width = size
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} = {width * height} pixels, "
            f"the limit is {max_pixels}.",
            remedy="Scale the image down before sending it.",
        )


def require_modest(image: Image.Image, data: bytes, *, max_pixels: int) -> None:
    """Raise if decoding the file would cost much more than its number of pixels suggests."""
    if isinstance(image, JpegImageFile):
        require_few_scans(data)
    elif isinstance(image, TiffImageFile):
        _require_little_cover(image, MAX_COVER * max_pixels)
        if image.info["compression"] in ("jpeg", "tiff_jpeg"):
            _require_small_frames(data, max_pixels)
    elif isinstance(image, BmpImageFile) and image.tile[0].codec_name == "bmp_rle":
        pixels = image.width * image.height
        if pixels > MAX_RUN_LENGTH_PIXELS:
            raise TooManyPixels(
                f"The run-length coded BMP has {pixels} pixels, "
                f"the limit is {MAX_RUN_LENGTH_PIXELS}.",
                remedy="Save it without run-length coding, or as PNG.",
            )


def _require_little_cover(image: TiffImageFile, limit: int) -> None:
    """Raise TooManyPixels if the strips or tiles, which are decoded whole, cover too much."""
    if image.tile[0].codec_name == "libtiff":
        sides = [image.tag_v2.get(tag, 1) for tag in (TILEWIDTH, TILELENGTH)]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise BrokenImage("The TIFF's tiles have no size.", remedy="Save it anew, or as PNG.")
        stored = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
        covered = math.prod(-(-of // side) * side for of, side in zip(stored, sides, strict=True))
    else:
        boxes = (tile.extents or (0, 0, 0, 0) for tile in image.tile)
        planes = len(image.getbands())  # may be stored one behind the other
        covered = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes) // planes
    if covered > limit:
        raise TooManyPixels(
            f"The TIFF's strips or tiles cover {covered} pixels, the limit is {limit}.",
            remedy="Save it with smaller tiles, or as PNG.",
        )


def _require_small_frames(data: bytes, max_pixels: int) -> None:
    """Raise TooManyPixels if a JPEG in the TIFF is too large.

    The JPEG of the last strip may be higher than the strip: libtiff only warns, and decodes a
    progressive one whole. A file of 1 kB took 933 MB.
    """
    for frame in FRAME.finditer(data):
        height, width = (int.from_bytes(side, "big") for side in frame.groups())
        if width * height > max_pixels:
            raise TooManyPixels(
                f"A JPEG in the TIFF has {width} x {height} = {width * height} pixels, "
                f"the limit is {max_pixels}.",
                remedy="Save it anew, or as PNG.",
            )
