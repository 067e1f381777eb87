"""From an upload's bytes to RGB pixels, and from a mask to the bytes of an answer.

Runs in worker threads; knows nothing of HTTP but the problems that it raises.
"""

import io
from collections.abc import Sequence

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from app.accept import AnswerFormat
from app.errors import BrokenImage, TooManyPixels, UnsupportedType
from model.engines.base import Array
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


def decode(data: bytes, *, max_pixels: int) -> Array:
    """The first frame, upright, as RGB of shape (H, W, 3), uint8.

    Transparency is dropped, 16-bit samples keep their upper eight bits. The pixel limit is checked
    from the header, before anything is decoded. Raises UnsupportedType, TooManyPixels, BrokenImage.
    """
    with _open(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooManyPixels(
                f"The image has {width} x {height} = {width * height} pixels, "
                f"the limit is {max_pixels}.",
                remedy="Scale the image down before sending it.",
            )
        try:
            image.load()
            return np.asarray(_to_rgb(_upright(image)))
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


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; EXIF that cannot be read says nothing.

    Not `ImageOps.exif_transpose`: it also writes the EXIF anew, and fails where that fails.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as many kinds as there are ways to damage a file
        return image
    turn = UPRIGHT.get(orientation or 1)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.uint32) >> 8)
    if image.mode == "I":  # 32-bit integers; what files hold in them are 16-bit samples
        return _grey(np.asarray(image).astype(np.int64).clip(0, 65535) >> 8)
    if image.mode == "F":
        samples = np.nan_to_num(np.asarray(image))
        return _grey((samples * 255 if samples.max() <= 1 else samples).clip(0, 255))
    return image.convert("RGB")


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
    image = Image.fromarray(mask)
    image.putpalette(colormap(metadata).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def encode_npy(mask: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, mask, allow_pickle=False)
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
    counts = np.bincount(mask.ravel(), minlength=len(classes))
    return [
        {"index": index, "name": classes[index], "pixels": int(counts[index])}
        for index in counts.nonzero()[0].tolist()
    ]
