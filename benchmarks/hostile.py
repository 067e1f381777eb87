"""What hostile images cost: time and memory of decoding each, with the default limits.

Each file is decoded in its own forked process. The files are the tests' corpus and files that use
the limits fully. Knows nothing of the server.
"""

import os
import zlib
from collections.abc import Callable
from multiprocessing import get_context

from PIL import Image

from app.codecs.decode import decode_image
from app.codecs.pillow import prepare_pillow
from app.errors import RequestError
from app.http.problems import PROBLEMS
from app.settings import Settings
from benchmarks.process import Cost, measure_call
from benchmarks.report import Plan, Row, publish, read_plan
from benchmarks.watch import MIB
from tests.app.corpus import corpus, picture, png, saved

SIDE = 5000
"""Its square is the default SEG_MAX_PIXELS."""

SHOWN = 6
"""This many of the corpus's files are shown: the slowest, and the one of the most memory."""

QUICK_FILES = 40


def main() -> None:
    plan = read_plan(Plan, "hostile", __doc__, quick={})
    prepare_pillow()
    Image.init()  # in each fork it would count
    files = list(corpus().items())[: QUICK_FILES if plan.quick else None]
    small = [measure_decoding(name, data) for name, data in files]
    rows = sorted(small, key=lambda row: -float(row["decode, s"]))[:SHOWN]
    largest = max(small, key=lambda row: float(row["memory, MiB"]))
    rows += [largest] if largest not in rows else []
    if not plan.quick:
        rows += [measure_decoding(name, make()) for name, make in FULL.items()]
    publish("hostile", "What hostile images cost", rows, plan=plan, files=len(small))


def measure_decoding(name: str, data: bytes) -> Row:
    with get_context("fork").Pool(1) as pool:
        cost: Cost = pool.apply(_measure_in_fork, (data,))
    return {
        "file": name,
        "bytes": len(data),
        "decode, s": round(cost.seconds, 3),
        "memory, MiB": round(cost.peak_bytes / MIB),
        "outcome": cost.result,
    }


def _measure_in_fork(data: bytes) -> Cost:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff complains there
    return measure_call(_decode, data, Settings())


def _decode(data: bytes, settings: Settings) -> str:
    """The decoded size, or the name of the problem."""
    try:
        decoded = decode_image(data, max_pixels=settings.max_pixels, max_side=settings.max_side)
    except RequestError as problem:
        return PROBLEMS[type(problem)].name
    return "{} x {}".format(*decoded.size)


def make_flat(mode: str, kind: str, **options: object) -> bytes:
    return saved(Image.new(mode, (SIDE, SIDE)), kind, **options)


def make_many_scans() -> bytes:
    data = make_flat("RGB", "JPEG", progressive=True, subsampling=0)
    last = data.rindex(b"\xff\xda\0")
    return data[:-2] + data[last:-2] * 85 + data[-2:]


def make_deep_png() -> bytes:
    rows = bytes(SIDE * (8 * SIDE + 8))
    return png(SIDE, SIDE, depth=16, colour=6, interlaced=True, pixels=rows)


def make_many_segments() -> bytes:
    data = saved(picture(), "JPEG")
    return data[:2] + b"\xff\xe0\0\2" * (8 * MIB) + data[2:]


FULL: dict[str, Callable[[], bytes]] = {
    "25 megapixels: flat PNG": lambda: png(SIDE, SIDE, pixels=bytes(SIDE * (3 * SIDE + 1))),
    "25 megapixels: interlaced PNG, 16 bits, alpha": make_deep_png,
    "25 megapixels: flat WebP": lambda: make_flat("RGB", "WEBP", lossless=True, method=0),
    "25 megapixels: flat GIF": lambda: make_flat("P", "GIF"),
    "25 megapixels: TIFF of integers": lambda: make_flat("I", "TIFF", compression="tiff_lzw"),
    "25 megapixels: TIFF of floats": lambda: make_flat("F", "TIFF", compression="tiff_lzw"),
    "25 megapixels: progressive CMYK JPEG": lambda: make_flat("CMYK", "JPEG", progressive=True),
    "25 megapixels: JPEG in 95 scans": make_many_scans,
    "32 MiB: JPEG of empty segments": make_many_segments,
    "32 MiB: PNG of private chunks": lambda: png(9, 9, before=[(b"prVt", b"")] * 2_700_000),
    "32 MiB: texts of a PNG, compressed 1000 times": lambda: png(
        9, 9, before=[(b"zTXt", b"k\0\0" + zlib.compress(bytes(MIB), 9))] * 30_000
    ),
}


if __name__ == "__main__":
    main()
