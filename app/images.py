"""From an upload's bytes to RGB pixels, and from a mask to the bytes of an answer.

Runs in worker threads; knows nothing of HTTP but the problems that it raises.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import orjson
import simplejpeg
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from app.accept import AnswerFormat
from app.errors import BrokenImage, TooManyPixels, UnsupportedType
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

MAX_SCANS = 100
"""A progressive JPEG has about ten. Each goes over the whole picture, and 65 bytes make one that
takes 25 ms in a flat picture of 40 megapixels: a file of 32 MiB could take hours.
"""

DRAFT_MARGIN = 2
"""The JPEG decoder leaves a picture this many times larger than the network sees it, or more.

Twice: about as many pixels of the masks change as by one grey level of noise, 0.14 to 0.4 %. Once:
two to three times as many.
"""

COUNTED_PIXELS = 2**16
"""Are counted at once, because `bincount` makes integers of eight bytes of them."""


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
    with _open(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooManyPixels(
                f"The image has {width} x {height} = {width * height} pixels, "
                f"the limit is {max_pixels}.",
                remedy="Scale the image down before sending it.",
            )
        reserve(width * height)
        if isinstance(image, JpegImageFile):
            _require_few_scans(data)
        stored = height, width
        content = content_size(stored, max_side)
        try:
            if content == stored:
                pixels = _straight(data, image)
                if pixels is not None:
                    return Decoded(pixels, stored)
                picture = _loaded(image)
            else:
                picture = _scaled(image, content)
            orientation = _orientation(image)
            if orientation in UPRIGHT:
                picture = picture.transpose(UPRIGHT[orientation])
            upright = stored[::-1] if orientation in ON_ITS_SIDE else stored
            return Decoded(np.asarray(picture), upright)
        except Exception as error:  # see _broken
            raise _broken(error) from error


def drop_pillows_limit() -> None:
    """Pillow's own pixel limit, 179 million, gives way to `max_pixels`; once, at the start."""
    Image.MAX_IMAGE_PIXELS = None


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


def _require_few_scans(data: bytes) -> None:
    if next(islice(SCAN.finditer(data), MAX_SCANS, None), None) is not None:
        raise BrokenImage(
            f"The JPEG has more than {MAX_SCANS} scans.",
            remedy="Save it anew, as a baseline or a common progressive JPEG.",
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
    """As EXIF says; EXIF that cannot be read says nothing. Ask after `load`: PNG's may be last.

    Not `ImageOps.exif_transpose`: it also writes the EXIF anew, and fails where that fails.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as many kinds as there are ways to damage a file
        return 1
    return orientation if isinstance(orientation, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.uint32) >> 8)
    if image.mode == "I":  # 32-bit integers; what files hold in them are 16-bit samples
        return _grey(np.asarray(image).astype(np.int64).clip(0, 65535) >> 8)
    if image.mode == "F":
        samples = np.nan_to_num(np.asarray(image))
        return _grey((samples * 255 if samples.max() <= 1 else samples).clip(0, 255))
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
    mask = np.ascontiguousarray(mask)
    file = io.BytesIO()
    npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(mask))
    file.write(mask.data)  # `numpy.save` goes by pieces: twice the time
    return file.getvalue()


def encode_json(mask: Array, metadata: Metadata) -> bytes:
    height, width = mask.shape
    body = {
        "height": height,
        "width": width,
        "classes": present_classes(mask, metadata.classes),
        "mask": np.ascontiguousarray(mask),
        "weights": metadata.digest,
    }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def present_classes(mask: Array, classes: Sequence[str]) -> list[dict[str, object]]:
    """The classes that the mask has, in index order, with the number of their pixels."""
    counts = np.zeros(256, np.int64)
    rows = 1 + COUNTED_PIXELS // mask.shape[1]
    for first in range(0, mask.shape[0], rows):
        counts += np.bincount(mask[first : first + rows].ravel(), minlength=256)
    return [
        {"index": index, "name": classes[index], "pixels": int(counts[index])}
        for index in counts.nonzero()[0].tolist()
    ]
