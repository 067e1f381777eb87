"""From an image file's bytes to RGB pixels, with Pillow's decoders.

Imports neither NumPy nor an HTTP library unless it has to: processes that only decode begin with
it. Knows nothing of them.
"""

import io
import math
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TILELENGTH, TILEWIDTH, TiffImageFile

from app.codecs.containers import SENT_WHOLE, orientation, webp_size
from app.codecs.jpegs import require_few_scans
from app.errors import BrokenImage, TooManyPixels, UnsupportedType
from app.formats import SUPPORTED
from model.scaling import GAP, Size, scale_down

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")

# What turns an image of that EXIF orientation upright (Exif 2.32, tag 0x0112).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_ITS_SIDE = {5, 6, 7, 8}
"""The orientations whose height is stored as the width."""

FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\0.[\x08\x0c](..)(..)", re.DOTALL)
"""Starts a picture in a JPEG: bits, height, width. Coded samples cannot contain it either."""

MAX_RUN_LENGTH_PIXELS = 2_000_000
"""Of a run-length coded BMP. Pillow decodes these in Python: 0.12 s and 20 MB a megapixel, from a
file of 60 bytes.
"""

MAX_COVER = 2
"""A TIFF's strips and tiles may cover so many times the pixel limit, for they may stick out. But
one tile of 30000 x 30000 pixels takes 900 MB, though the picture in it has 16 x 16.
"""

DRAFT_MARGIN = 2
"""The JPEG decoder leaves a picture this many times larger than the network sees it, or more.

Twice: about as many pixels of the masks change as by one grey level of noise, 0.14 to 0.4 %. Once:
two to three times as many.
"""

BAND_PIXELS = 2**18
"""Are converted at once: a second picture of all would take as much memory again."""

TALL_ROWS = 2**16
"""A picture of more rows is scaled in bands: Pillow keeps 8 bytes for each row."""

DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, ZeroDivisionError, struct.error,
)  # fmt: skip
"""What Pillow raises for a damaged file: its plugins parse in plain Python. Not MemoryError."""


@dataclass
class Picture:
    """Upright, and scaled as asked, in whatever mode; `size` the upload's own, upright."""

    image: Image.Image
    size: Size

    def bands(self) -> Iterator[Image.Image]:
        """The picture as RGB, from the top, some rows at a time."""
        return _rgb_bands(self.image)


class Upload:
    """An image file whose header has been read."""

    def __init__(self, data: bytes, image: Image.Image) -> None:
        self.data = data
        self.image = image
        self.size: Size = (image.height, image.width)

    @property
    def orientation(self) -> int:
        """As EXIF says; a TIFF's is Pillow's affair. Ask after `load`: PNG's may be last.

        Not `ImageOps.exif_transpose`: it also writes the EXIF anew, and fails where that fails. Nor
        `getexif`, which makes 250 bytes of objects of eight bytes of file.
        """
        return orientation(self.image.info.get("exif", b""))

    def picture(self, content: Size) -> Picture:
        """Decoded, and scaled down to `content`, as it is stored. Raises BrokenImage."""
        image = self._loaded() if content == self.size else self._scaled(content)
        turn = self.orientation
        if turn in UPRIGHT:
            image = image.transpose(UPRIGHT[turn])
        return Picture(image, self.size[::-1] if turn in ON_ITS_SIDE else self.size)

    def _loaded(self) -> Image.Image:
        with pillows_errors():
            self.image.load()
        self.image.fp = None  # type: ignore[attr-defined]  # WebP's pixels lie there once more
        return self.image

    def _scaled(self, content: Size) -> Image.Image:
        """Scaled before it is turned and copied: what is left to do then is small.

        A JPEG's decoder can halve a picture up to three times nearly for free.
        """
        height, width = content
        with pillows_errors():
            draft = self.image.draft(None, (DRAFT_MARGIN * width, DRAFT_MARGIN * height))
        # The decoder rounds sizes up; `box` is what the whole picture covers of them.
        box = draft[1] if draft else None
        loaded = self._loaded()
        if loaded.height > TALL_ROWS and loaded.height >= 2 * GAP * height:
            return _scaled_in_bands(loaded, content)
        return scale_down(_rgb(loaded), content, box=box)


def prepare_pillow() -> None:
    """Once, at the start: Pillow's own pixel limit, 179 million, gives way to `max_pixels`.

    And it warns of nothing, for Python remembers every warning's text: with the numbers of damaged
    files in it, that is memory which grows.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def pillows_errors() -> Iterator[None]:
    """Around calls of Pillow alone: an error of ours is not the file's."""
    try:
        yield
    except DAMAGED as error:
        raise BrokenImage(
            f"The image is damaged or incomplete ({type(error).__name__}).", remedy=SENT_WHOLE
        ) from error


@contextmanager
def opened(data: bytes, *, max_pixels: int) -> Iterator[Upload]:
    """What `containers.essential` left of a file.

    Raises UnsupportedType, BrokenImage, TooManyPixels: before anything is decoded.
    """
    canvas = webp_size(data)
    if canvas is not None:  # Pillow makes it when it opens the file
        _require_few_pixels(canvas, max_pixels)
    with pillows_errors():
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise UnsupportedType(
                f"The {len(data)} bytes are not an image of a supported format.",
                remedy=f"Send {SUPPORTED}.",
            ) from error
    with image:
        height, width = image.height, image.width
        _require_few_pixels((height, width), max_pixels)
        if width * height == 0:
            raise BrokenImage("The image has no pixels.", remedy=SENT_WHOLE)
        yield Upload(data, image)


def _require_few_pixels(size: Size, max_pixels: int) -> None:
    height, width = size
    if width * height > max_pixels:
        raise TooManyPixels(
            f"The image has {width} x {height} = {width * height} pixels, "
            f"the limit is {max_pixels}.",
            remedy="Scale the image down before sending it.",
        )


def require_modest(upload: Upload, max_pixels: int) -> None:
    """Refuses what would cost its decoder much more than its pixels do."""
    image, data = upload.image, upload.data
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
    """Each strip and tile is decoded whole, wherever it lies: beyond the picture, over others."""
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
    """A JPEG in a TIFF's last strip may be higher than the strip: libtiff only warns of it, and a
    progressive one is decoded whole. 1 kB took 933 MB.
    """
    for frame in FRAME.finditer(data):
        height, width = (int.from_bytes(side, "big") for side in frame.groups())
        if width * height > max_pixels:
            raise TooManyPixels(
                f"A JPEG in the TIFF has {width} x {height} = {width * height} pixels, "
                f"the limit is {max_pixels}.",
                remedy="Save it anew, or as PNG.",
            )


def _rgb_bands(image: Image.Image) -> Iterator[Image.Image]:
    convert = _conversion(image)
    for band in _bands(image, _band_rows(image)):
        yield convert(band)


def _band_rows(image: Image.Image) -> int:
    return max(1, BAND_PIXELS // image.width)


def _bands(image: Image.Image, rows: int) -> Iterator[Image.Image]:
    if rows >= image.height:
        yield image
        return
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else _conversion(image)(image)


def _scaled_in_bands(image: Image.Image, content: Size) -> Image.Image:
    """As `scale_down` does it, but for the bands."""
    height, width = content
    factors = (
        int(image.width / width / GAP) or 1,
        int(image.height / height / GAP) or 1,
    )
    convert = _conversion(image)
    rows = -(-BAND_PIXELS // image.width // factors[1]) * factors[1]
    size = (-(-image.width // factors[0]), -(-image.height // factors[1]))
    reduced = Image.new("RGB", size)
    for number, band in enumerate(_bands(image, rows)):
        reduced.paste(convert(band).reduce(factors), (0, number * rows // factors[1]))
    box = (0, 0, image.width / factors[0], image.height / factors[1])
    return scale_down(reduced, content, box=box)


Conversion = Callable[[Image.Image], Image.Image]


def _conversion(image: Image.Image) -> Conversion:
    """What makes RGB of this picture's bands. Deep samples keep their upper eight bits."""
    if image.mode.startswith("I;16"):
        return _from_16_bits
    if image.mode == "I":  # 32-bit integers; what files hold in them are 16-bit samples
        return _from_integers
    if image.mode == "F":
        largest = max(
            _floats(band).max() for band in _bands(image, max(1, BAND_PIXELS // image.width))
        )
        return _from_fractions if largest <= 1 else _from_floats
    return _converted


def _converted(band: Image.Image) -> Image.Image:
    if band.mode == "RGB":
        return band
    with pillows_errors():  # there are modes that Pillow reads and does not convert
        return band.convert("RGB")


def _from_16_bits(band: Image.Image) -> Image.Image:
    import numpy as np  # 20 MB and 0.1 s, which few files are worth

    return _grey(np.asarray(band) >> 8)


def _from_integers(band: Image.Image) -> Image.Image:
    import numpy as np

    return _grey(np.clip(np.asarray(band), 0, 65535) >> 8)


def _floats(band: Image.Image) -> "NDArray[np.float32]":
    import numpy as np

    samples: NDArray[np.float32] = np.array(band)
    np.nan_to_num(samples, copy=False)
    return samples


def _from_floats(band: Image.Image) -> Image.Image:
    samples = _floats(band)
    return _grey(samples.clip(0, 255, out=samples))


def _from_fractions(band: Image.Image) -> Image.Image:
    samples = _floats(band)
    samples *= 255
    return _grey(samples.clip(0, 255, out=samples))


def _grey(samples: "NDArray[Any]") -> Image.Image:
    return Image.fromarray(samples.astype("uint8")).convert("RGB")
