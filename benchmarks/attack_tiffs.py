"""Costly TIFFs: one for every choice of compression, mode, strips or tiles, and data.

Pillow compresses the data, so that most of the files can be decoded. Knows nothing of decoding.
"""

import io
import random
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO

from tests.app.corpus import TIFF_COMPRESSIONS, blocks, more_scans, tiff

Choices = dict[str, int]


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode of Pillow, and the tags with which a TIFF declares it."""

    name: str
    bits: int
    samples: int = 1
    photometric: int = 1
    extra: int | None = None
    sample_format: int = 1


MODES = (
    Mode("1", 1), Mode("L", 8), Mode("LA", 8, 2, extra=2), Mode("RGB", 8, 3, 2),
    Mode("RGBA", 8, 4, 2, extra=2), Mode("CMYK", 8, 4, 5), Mode("I;16", 16),
    Mode("I", 32, sample_format=2), Mode("F", 32, sample_format=3), Mode("", 64, 4),
)  # fmt: skip
"""The last is one that no decoder knows."""

FAXES, JPEGS = (2, 3, 4, 32771), (6, 7)
CONTENTS = 4
"""Kinds of data: a flat picture, noise, random bytes that are not compressed data, and zeros."""

FIELDS = {
    "shape": 6, "compression": len(TIFF_COMPRESSIONS), "mode": len(MODES), "strips": 5, "tiled": 2,
    "shared": 2, "planar": 2, "predictor": 2, "scans": 2, "content": CONTENTS, "side": 2,
}  # fmt: skip

MAX_FILE_BYTES = 32_000_000
"""A larger file would be refused for its size: then its strips share their data, and are refused
for that.
"""


def make_tiff(choices: Choices, height: int, width: int) -> bytes:
    """Make a file of this size; `choices` has a number for each of FIELDS."""
    compression, mode = TIFF_COMPRESSIONS[choices["compression"]], MODES[choices["mode"]]
    strips = min((1, 16, 1000, 30_000, 2**16)[choices["strips"]], height)
    rows = -(-height // strips)
    planes = mode.samples if choices["planar"] else 1
    block = make_block(choices, compression, rows, width)
    count = -(-height // rows) * planes
    shared = bool(choices["shared"]) or len(block) * count > MAX_FILE_BYTES
    offsets, lengths, pixels = blocks(block, count, shared=shared)
    tags: dict[int, int | list[int] | None] = {
        256: width, 257: height, 258: [mode.bits] * mode.samples, 259: compression,
        262: mode.photometric, 273: offsets, 277: mode.samples, 278: rows, 279: lengths,
        284: 1 + choices["planar"], 317: 1 + choices["predictor"], 338: mode.extra,
        339: [mode.sample_format] * mode.samples,
    }  # fmt: skip
    if compression in JPEGS and mode.name == "RGB":
        tags |= {262: 6, 530: [2, 2]}  # as Pillow's JPEGs are stored
    if choices["tiled"]:
        tags |= {273: None, 278: None, 279: None, 322: width, 323: rows, 324: offsets, 325: lengths}
    return tiff(tags, pixels=pixels)


def make_block(choices: Choices, compression: int, rows: int, width: int) -> bytes:
    """Return the data of a strip or tile; zeros where Pillow cannot compress it in this way."""
    content = choices["content"]
    mode = "L" if choices["planar"] else MODES[choices["mode"]].name
    can_compress = mode == "1" or (compression not in FAXES and mode != "")
    if can_compress and content < 2:
        picture = draw_block(mode, rows, width, noise=content == 1)
        with suppress(KeyError, OSError, RuntimeError, ValueError):
            if compression in JPEGS:
                return compress_jpeg(picture, scans=choices["scans"])
            return compress_strip(picture, compression, predictor=1 + choices["predictor"])
    size = 4000 if choices["shared"] else max(8, min(4000, rows // 4))
    return random.Random(1).randbytes(size) if content == 2 else bytes(size)


def draw_block(mode: str, rows: int, width: int, *, noise: bool) -> Image.Image:
    if not noise:
        return Image.new(mode, (width, rows))
    tile = np.random.default_rng(0).integers(0, 256, 4099, np.uint8)  # a prime, so rows differ
    picture = Image.fromarray(np.resize(tile, (rows, width)))
    return picture.convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)


def compress_jpeg(picture: Image.Image, *, scans: int) -> bytes:
    """Return a JPEG, with 90 more scans if `scans` is 1."""
    file = io.BytesIO()
    picture.save(file, "JPEG", progressive=bool(scans))
    return more_scans(file.getvalue(), 90) if scans else file.getvalue()


def compress_strip(picture: Image.Image, compression: int, *, predictor: int) -> bytes:
    """Return the data of the only strip of a TIFF that Pillow writes."""
    file = io.BytesIO()
    tags = {278: picture.height, 317: predictor}
    picture.save(file, "TIFF", compression=COMPRESSION_INFO.get(compression), tiffinfo=tags)
    with Image.open(file) as written:
        (start,), (length,) = written.tag_v2[273], written.tag_v2[279]  # type: ignore[attr-defined]
    return file.getvalue()[start : start + length]
