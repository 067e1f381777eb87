"""Decodes an image file with Pillow, upright and scaled down.

Imports neither NumPy nor an HTTP library, so that decoder processes start fast. Knows nothing of
these processes.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from app.codecs.costs import require_few_pixels
from app.codecs.exif import read_orientation
from app.codecs.pillow import translate_pillow_errors
from app.codecs.rgb import (
    BAND_PIXELS,
    choose_conversion,
    convert_to_rgb,
    split_into_bands,
)
from app.codecs.stripping import CHECK_FILE
from app.codecs.webp import read_webp_size
from app.errors import BrokenImage, UnsupportedType
from app.formats import SUPPORTED
from model.pictures import FORMATS, UPRIGHT
from model.scaling import GAP, Size, scale_down

ON_ITS_SIDE = {5, 6, 7, 8}
"""The orientations that swap height and width."""

DRAFT_MARGIN = 2
"""The JPEG decoder's reduced size is at least this multiple of the network's input.

With 2, 0.14 to 0.4 % of the masks' pixels change, about as many as with one grey level of noise;
with 1, two to three times as many.
"""

TALL_ROWS = 2**16
"""A picture with more rows is scaled in bands, because Pillow takes 8 bytes for each row."""


@dataclass
class Picture:
    """An upright, scaled image in any mode of Pillow; `size` is the upright size of the upload."""

    image: Image.Image
    size: Size


class Upload:
    """An image file whose header has been read."""

    def __init__(self, data: bytes, image: Image.Image) -> None:
        self.data = data
        self.image = image
        self.size: Size = (image.height, image.width)

    @property
    def orientation(self) -> int:
        """The EXIF orientation, except for a TIFF, where Pillow itself applies it.

        It is known after the image is loaded, because a PNG's EXIF may be its last chunk. Pillow's
        functions are not used: `ImageOps.exif_transpose` also writes the EXIF and fails if it
        cannot, and `getexif` creates 250 bytes of objects from eight bytes of a file.
        """
        return read_orientation(self.image.info.get("exif", b""))

    def decode(self, content: Size) -> Picture:
        """Decode the image, scale its stored form down to `content`, and turn it upright.

        Raises BrokenImage.
        """
        image = self._load() if content == self.size else self._load_scaled(content)
        turn = self.orientation
        if turn in UPRIGHT:
            image = image.transpose(UPRIGHT[turn])
        return Picture(image, self.size[::-1] if turn in ON_ITS_SIDE else self.size)

    def _load(self) -> Image.Image:
        # At once: a decoder that consumes nothing, such as in a run of fill bytes or a long row,
        # gets all bytes again with every further block, so the time would grow with their square.
        self.image.decodermaxblock = len(self.data)  # type: ignore[attr-defined]
        with translate_pillow_errors():
            self.image.load()
        self.image.fp = None  # type: ignore[attr-defined]  # holds WebP's pixels a second time
        return self.image

    def _load_scaled(self, content: Size) -> Image.Image:
        """Load the image and scale it down; turning it upright is cheap after that.

        A JPEG decoder can halve a picture up to three times at little cost.
        """
        height, width = content
        with translate_pillow_errors():
            draft = self.image.draft(None, (DRAFT_MARGIN * width, DRAFT_MARGIN * height))
        # The decoder rounds sizes up; `box` is the part that the picture covers.
        box = draft[1] if draft else None
        loaded = self._load()
        if loaded.height > TALL_ROWS and loaded.height >= 2 * GAP * height:
            return _scale_in_bands(loaded, content)
        return scale_down(convert_to_rgb(loaded), content, box=box)


@contextmanager
def open_upload(data: bytes, *, max_pixels: int) -> Iterator[Upload]:
    """Open a file that `stripping.strip_file` has returned, without decoding it.

    Raises UnsupportedType, BrokenImage and TooManyPixels.
    """
    canvas = read_webp_size(data)
    if canvas is not None:  # Pillow allocates it when it opens the file
        require_few_pixels(canvas, max_pixels)
    with translate_pillow_errors():
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise UnsupportedType(
                f"The {len(data)} bytes are not an image of a supported format.",
                remedy=f"Send {SUPPORTED}.",
            ) from error
    with image:
        height, width = image.height, image.width
        require_few_pixels((height, width), max_pixels)
        if width * height == 0:
            raise BrokenImage("The image has no pixels.", remedy=CHECK_FILE)
        yield Upload(data, image)


def _scale_in_bands(image: Image.Image, content: Size) -> Image.Image:
    """Scale down like `scale_down`, but in bands."""
    height, width = content
    factors = (
        int(image.width / width / GAP) or 1,
        int(image.height / height / GAP) or 1,
    )
    convert = choose_conversion(image)
    rows = -(-BAND_PIXELS // image.width // factors[1]) * factors[1]
    size = (-(-image.width // factors[0]), -(-image.height // factors[1]))
    reduced = Image.new("RGB", size)
    for number, band in enumerate(split_into_bands(image, rows)):
        reduced.paste(convert(band).reduce(factors), (0, number * rows // factors[1]))
    box = (0, 0, image.width / factors[0], image.height / factors[1])
    return scale_down(reduced, content, box=box)
