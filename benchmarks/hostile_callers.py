"""The requests that hostile callers send, and two ways in which they behave.

Each of them once stopped a server or exhausted its memory. Knows nothing of what is measured.
"""

import asyncio
from collections.abc import Iterator

import numpy as np
from PIL import Image

from benchmarks.attack_files import make_deep_png, make_many_scans
from benchmarks.connection import Request, open_streams, post_request
from benchmarks.load import LoadGenerator
from benchmarks.process import OUR_PATH
from benchmarks.results import Outcome
from tests.app.corpus import (
    ccitt_strips,
    jpeg_segment,
    jpeg_strips,
    saved,
    tall_png,
)

SLOW_READ_BYTES, SLOW_READ_S = 2**16, 2.0


def make_costly_tiffs(side: int) -> Iterator[Request]:
    rows = side * side
    yield post_request("fax, shared", OUR_PATH, content=ccitt_strips(rows=rows))
    yield post_request("JPEG, shared", OUR_PATH, content=jpeg_strips())
    separate = ccitt_strips(rows=rows // 8, strips=1000, compression=3, shared=False)
    yield post_request("fax", OUR_PATH, content=separate)


def make_thin_pngs(side: int) -> Iterator[Request]:
    for kind in ("json", "png"):
        for width in (1, side * side):
            data = tall_png(width, side * side // width)
            yield post_request("thin PNG", f"{OUR_PATH}?format={kind}", content=data)


def make_slow_pictures(side: int) -> Iterator[Request]:
    yield post_request("deep PNG", OUR_PATH, content=make_deep_png(side))
    yield post_request("90 scans", OUR_PATH, content=make_many_scans(side, 90))


def make_hasty_jpegs(side: int) -> Iterator[Request]:
    """Yield JPEGs of many segments, with deadlines that are too short for them."""
    jpeg = saved(Image.new("RGB", (side, side)), "JPEG")
    data = jpeg[:2] + jpeg_segment(0xFE, b"") * 65_000 + jpeg[2:]
    for milliseconds in range(5, 120, 5):
        headers = {"X-Request-Timeout": str(milliseconds / 1000)}
        yield post_request("hasty JPEG", OUR_PATH, content=data, headers=headers)


def make_noise(side: int) -> Request:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return post_request("noise", OUR_PATH, content=saved(Image.fromarray(noise), "JPEG"))


def make_small_webp(side: int) -> Request:
    data = saved(Image.new("RGB", (side, side)), "WEBP", lossless=True, method=0)
    return post_request("flat WebP", f"{OUR_PATH}?format=json", content=data)


async def keep_reading_slowly(load: LoadGenerator, request: Request) -> None:
    """Request ten large answers at a time and read 64 KiB of each every two seconds."""

    async def read_slowly() -> None:
        try:
            async with open_streams(load.address) as (reader, writer):
                writer.writelines((request.head, request.body))
                while await reader.read(SLOW_READ_BYTES):
                    await asyncio.sleep(SLOW_READ_S)
            load.record("reads slowly", request, Outcome.LEFT)
        except OSError:
            load.record("reads slowly", request, Outcome.CUT_OFF)

    while True:
        await asyncio.gather(*(read_slowly() for _ in range(10)))
