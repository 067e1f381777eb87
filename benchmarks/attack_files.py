"""Costly files: one for every choice of a format's fields, and some that reach the server's limits.

Knows what the header of a file can say. Knows nothing of decoding.
"""

import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageFile

from benchmarks import attack_tiffs
from benchmarks.attack_tiffs import Choices
from tests.app.corpus import (
    PNG_KINDS,
    PNG_SAMPLES,
    bmp,
    jpeg_segment,
    more_scans,
    picture,
    png,
    png_of,
    saved,
)

SHAPES = ((5000, 5000), (25_000_000, 1), (1, 25_000_000), (381, 65_500), (65_500, 381), (16, 16))
"""(height, width). A size that a format does not allow is reduced."""
FIELDS: dict[str, dict[str, int]] = {
    "JPEG": {
        "shape": 6, "mode": 3, "progressive": 2, "sampling": 3, "scans": 3, "restarts": 2,
        "noise": 2, "side": 2,
    },
    "PNG": {
        "shape": 6, "kind": 15, "interlaced": 2, "filter": 5, "chunks": 3, "noise": 2, "side": 2,
    },
    "WEBP": {"shape": 6, "lossless": 2, "alpha": 2, "noise": 2, "side": 2},
    "GIF": {"shape": 6, "interlaced": 2, "noise": 2, "side": 2},
    "BMP": {"shape": 6, "bits": 6, "side": 2},
    "TIFF": attack_tiffs.FIELDS,
}  # fmt: skip
"""How many values the search tries for each field of a format."""


def make(kind: str, choices: Choices) -> bytes:
    """Make a file of the format; `choices` has the number of the value of each field."""
    return MAKERS[kind](choices, *SHAPES[choices["shape"]])


def draw_picture(mode: str, height: int, width: int, *, noise: bool, limit: int) -> Image.Image:
    size = min(width, limit), min(height, limit)
    if not noise:
        return Image.new(mode, size)
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rows, columns = -(-size[1] // 64), -(-size[0] // 64)
    return Image.fromarray(np.tile(tile, (rows, columns, 1))[: size[1], : size[0]]).convert(mode)


MCU_SIDE = 16
"""The largest side of a JPEG's coding unit (MCU). JPEG pads pictures to a multiple of it."""


def make_jpeg(choices: Choices, height: int, width: int) -> bytes:
    mode = ("L", "RGB", "CMYK")[choices["mode"]]
    image = draw_picture(mode, height, width, noise=bool(choices["noise"]), limit=65_500)
    progressive = bool(choices["progressive"])
    # Pillow writes a progressive file in one piece. The buffer that it reserves has room for the
    # picture's pixels, but not for the padding of a thin picture.
    bytes_at_most = 4 * (image.width + MCU_SIDE) * (image.height + MCU_SIDE)
    ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, bytes_at_most)
    data = saved(
        image, "JPEG", progressive=progressive, subsampling=choices["sampling"],
        restart_marker_blocks=choices["restarts"],
    )  # fmt: skip
    return more_scans(data, (0, 30, 99)[choices["scans"]]) if progressive else data


def make_png(choices: Choices, height: int, width: int) -> bytes:
    depth, colour = PNG_KINDS[choices["kind"]]
    row_bytes = (width * depth * PNG_SAMPLES[colour] + 7) // 8
    row = bytes((choices["filter"],)) + (bytes(range(251)) * (row_bytes // 251 + 1))[:row_bytes]
    if not choices["noise"]:
        row = row[:1] + bytes(row_bytes)
    packed = zlib.compress(row * height)
    chunk_bytes = max(1, len(packed) // (1, 4000, 60_000)[choices["chunks"]])
    starts = range(0, len(packed), chunk_bytes)
    palette = [(b"PLTE", bytes(768))] if colour == 3 else []
    parts = [(b"IDAT", packed[start : start + chunk_bytes]) for start in starts]
    return png_of(
        width,
        height,
        *palette,
        *parts,
        depth=depth,
        colour=colour,
        interlaced=choices["interlaced"],
    )


def make_webp(choices: Choices, height: int, width: int) -> bytes:
    mode = "RGBA" if choices["alpha"] else "RGB"
    limit = 16_383
    image = draw_picture(mode, height, width, noise=bool(choices["noise"]), limit=limit)
    return saved(image, "WEBP", lossless=bool(choices["lossless"]), method=0, quality=10)


def make_gif(choices: Choices, height: int, width: int) -> bytes:
    image = draw_picture("P", height, width, noise=bool(choices["noise"]), limit=65_535)
    return saved(image, "GIF", interlace=choices["interlaced"])


def make_bmp(choices: Choices, height: int, width: int) -> bytes:
    bits, compression = ((1, 0), (8, 0), (24, 0), (32, 0), (8, 1), (4, 2))[choices["bits"]]
    if compression:
        height, width = min(height, 1400), min(width, 1400)
    size = 6 if compression else min((width * bits + 31) // 32 * 4 * height, 30_000_000)
    return bmp(width, height, bits=bits, compression=compression, pixels=bytes(size))


MAKERS: dict[str, Callable[[Choices, int, int], bytes]] = {
    "JPEG": make_jpeg,
    "PNG": make_png,
    "WEBP": make_webp,
    "GIF": make_gif,
    "BMP": make_bmp,
    "TIFF": attack_tiffs.make_tiff,
}


def make_files_at_limits(*, side: int, size_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield names and files: pictures of `side` x `side` pixels, then metadata of `size_bytes`."""

    def make_flat(mode: str, kind: str, **options: object) -> bytes:
        return saved(Image.new(mode, (side, side)), kind, **options)

    size = f"{side * side / 1e6:g} megapixels"
    yield f"{size}: flat PNG", png(side, side, pixels=bytes(side * (3 * side + 1)))
    yield f"{size}: interlaced PNG, 16 bits, alpha", make_deep_png(side)
    yield f"{size}: flat WebP", make_flat("RGB", "WEBP", lossless=True, method=0)
    yield f"{size}: flat GIF", make_flat("P", "GIF")
    yield f"{size}: TIFF of integers", make_flat("I", "TIFF", compression="tiff_lzw")
    yield f"{size}: TIFF of floats", make_flat("F", "TIFF", compression="tiff_lzw")
    yield f"{size}: progressive CMYK JPEG", make_flat("CMYK", "JPEG", progressive=True)
    yield f"{size}: JPEG in 95 scans", make_many_scans(side, 95)
    size = f"{size_bytes / 2**20:g} MiB"
    jpeg = saved(picture(), "JPEG")
    segments = jpeg_segment(0xE0, b"") * (size_bytes // 4)
    yield f"{size}: JPEG of empty segments", jpeg[:2] + segments + jpeg[2:]
    yield f"{size}: PNG of private chunks", png(9, 9, before=[(b"prVt", b"")] * (size_bytes // 12))
    text = b"k\0\0" + zlib.compress(bytes(2**20), 9)
    texts = [(b"zTXt", text)] * (size_bytes // (len(text) + 12))
    yield f"{size}: texts of a PNG, compressed 1000 times", png(9, 9, before=texts)


def make_deep_png(side: int) -> bytes:
    rows = bytes(side * (8 * side + 8))
    return png(side, side, depth=16, colour=6, interlaced=True, pixels=rows)


def make_many_scans(side: int, count: int) -> bytes:
    flat = Image.new("RGB", (side, side))
    return more_scans(saved(flat, "JPEG", progressive=True, subsampling=0), count)
