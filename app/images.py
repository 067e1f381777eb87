"""From an upload's bytes to RGB pixels, and from a mask to the bytes of an answer.

Runs in worker threads; knows nothing of HTTP but the problems that it raises.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import simplejpeg
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TILELENGTH, TILEWIDTH, TiffImageFile

from app import jsonmask
from app.accept import AnswerFormat
from app.containers import essential, orientation
from app.errors import BrokenImage, Problem, TooManyPixels, UnsupportedType
from app.png import indexed_png
from model.engines.base import Array, Size
from model.predictor import content_size, scale_down
from model.weights import Metadata, colormap

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SUPPORTED = "JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame)"

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

SCAN = re.compile(rb"\xff\xda\0")
"""Starts a scan of a JPEG; coded samples cannot contain it."""

FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]\0.[\x08\x0c](..)(..)", re.DOTALL)
"""Starts a picture in a JPEG: bits, height, width. Coded samples cannot contain it either."""

MAX_SCANS = 100
"""A progressive JPEG has about ten. Each goes over the whole picture, and 65 bytes make one that
takes 25 ms in a flat picture of 40 megapixels: a file of 32 MiB could take hours.
"""

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


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upload, upright: `pixels` RGB (h, w, 3) uint8, scaled down as asked; `size` its own."""

    pixels: Array
    size: Size


def decode(
    data: bytes,
    *,
    max_pixels: int,
    max_side: int = 0,
    reserve: Callable[[int], None] = lambda _: None,
) -> Decoded:
    """The first frame, upright, as RGB; scaled down if its longer side exceeds `max_side` (0: no).

    Transparency is dropped, 16-bit samples keep their upper eight bits. The pixel limit is checked
    from the header, before anything is decoded; `reserve` then gets the number of pixels, and may
    refuse it. Raises UnsupportedType, TooManyPixels, BrokenImage.
    """
    data = essential(data)
    with _open(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooManyPixels(
                f"The image has {width} x {height} = {width * height} pixels, "
                f"the limit is {max_pixels}.",
                remedy="Scale the image down before sending it.",
            )
        reserve(width * height)
        stored = height, width
        content = content_size(stored, max_side)
        try:
            _require_modest(image, data, max_pixels)
            if content == stored:
                pixels = _straight(data, image)
                if pixels is not None:
                    return Decoded(pixels, stored)
                picture = _loaded(image)
            else:
                picture = _scaled(image, content)
            turn = _orientation(image)
            if turn in UPRIGHT:
                picture = picture.transpose(UPRIGHT[turn])
            upright = stored[::-1] if turn in ON_ITS_SIDE else stored
            return Decoded(np.asarray(picture), upright)
        except Problem:
            raise
        except Exception as error:  # see _broken
            raise _broken(error) from error


def prepare_pillow() -> None:
    """Once, at the start: Pillow's own pixel limit, 179 million, gives way to `max_pixels`.

    And it warns of nothing, for Python remembers every warning's text: with the numbers of damaged
    files in it, that is memory which grows.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnsupportedType(
            f"The {len(data)} bytes are not an image of a supported format.",
            remedy=f"Send {SUPPORTED}.",
        ) from error
    except Exception as error:  # see _broken
        raise _broken(error) from error


def _broken(error: Exception) -> BrokenImage:
    """For whatever Pillow raised: its plugins parse damaged files in plain Python, so it may be
    anything from OSError to struct.error.
    """
    return BrokenImage(
        f"The image is damaged or incomplete ({type(error).__name__}).",
        remedy="Check that the file opens elsewhere and was sent whole.",
    )


def _require_modest(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Refuses what would cost its decoder much more than its pixels do."""
    if isinstance(image, JpegImageFile):
        _require_few_scans(data)
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


def _require_few_scans(data: bytes) -> None:
    if next(islice(SCAN.finditer(data), MAX_SCANS, None), None) is not None:
        raise BrokenImage(
            f"The JPEG has more than {MAX_SCANS} scans.",
            remedy="Save it anew, as a baseline or a common progressive JPEG.",
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


def _straight(data: bytes, image: Image.Image) -> Array | None:
    """An upright RGB or grey JPEG, decoded past Pillow; None where Pillow has to see to it.

    The same library decodes, libjpeg-turbo, and to the same pixels; but it writes them straight
    into the array, where Pillow goes by two copies. Whatever it so much as warns of is Pillow's
    to accept or refuse.
    """
    if not isinstance(image, JpegImageFile) or image.mode not in ("RGB", "L"):
        return None
    if _orientation(image) in UPRIGHT:
        return None
    # Of the size that was held against the limit: a file that tells two sizes does not fit.
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    try:
        decoded: Array = simplejpeg.decode_jpeg(data, buffer=pixels)
    except ValueError:
        return None
    return decoded if decoded.shape == pixels.shape else None


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    return _to_rgb(image)


def _scaled(image: Image.Image, content: Size) -> Image.Image:
    """Scaled before it is turned and copied: what is left to do then is small.

    A JPEG's decoder can halve a picture up to three times nearly for free.
    """
    height, width = content
    draft = image.draft(None, (DRAFT_MARGIN * width, DRAFT_MARGIN * height))
    # The decoder rounds sizes up; `box` is what the whole picture covers of them.
    box = draft[1] if draft else None
    return scale_down(_loaded(image), content, box=box)


def _orientation(image: Image.Image) -> int:
    """As EXIF says; a TIFF's is Pillow's affair. Ask after `load`: PNG's may be last.

    Not `ImageOps.exif_transpose`: it also writes the EXIF anew, and fails where that fails. Nor
    `getexif`, which makes 250 bytes of objects of eight bytes of file.
    """
    return orientation(image.info.get("exif", b""))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image) >> 8)
    if image.mode == "I":  # 32-bit integers; what files hold in them are 16-bit samples
        integers = np.array(image)
        np.clip(integers, 0, 65535, out=integers)
        integers >>= 8
        return _grey(integers)
    if image.mode == "F":
        samples = np.array(image)
        np.nan_to_num(samples, copy=False)
        if samples.max() <= 1:
            samples *= 255
        return _grey(np.clip(samples, 0, 255, out=samples))
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(samples: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(samples.astype(np.uint8)).convert("RGB")


def encode(mask: Array, answer: AnswerFormat, metadata: Metadata) -> bytes:
    """The answer's body for a mask (H, W) of class indices."""
    if answer is AnswerFormat.PNG:
        return encode_png(mask, metadata)
    if answer is AnswerFormat.NPY:
        return encode_npy(mask)
    return encode_json(mask, metadata)


def encode_png(mask: Array, metadata: Metadata) -> bytes:
    """An indexed PNG: its pixel values are the class indices, its palette the classes' colours."""
    return indexed_png(mask, colormap(metadata))


def encode_npy(mask: Array) -> bytes:
    # `numpy.save` goes by pieces: twice the time
    return b"".join((npy_header(mask), np.ascontiguousarray(mask).data))


def npy_header(mask: Array) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(np.ascontiguousarray(mask)))
    return file.getvalue()


def encode_json(mask: Array, metadata: Metadata) -> bytes:
    size = mask.shape[0], mask.shape[1]
    head, tail = jsonmask.around(size, jsonmask.count(mask), metadata)
    texts = (jsonmask.part_text(mask[part], *part, size[1]) for part in jsonmask.parts(size))
    return b"".join((head, *texts, tail))


def present_classes(mask: Array, classes: Sequence[str]) -> list[dict[str, object]]:
    """The classes that the mask has, in index order, with the number of their pixels."""
    return jsonmask.present(jsonmask.count(mask), classes)
