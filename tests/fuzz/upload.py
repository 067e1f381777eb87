"""A fuzzer of all steps of an upload: form or raw body, decode, prepare, encode (needs atheris).

`make fuzz`, or `python -m tests.fuzz.upload` with libFuzzer's options and folders behind it. The
files of `tests.app.corpus` are its first seeds. Whatever is not an answer or one of our problems is
a crash, and so is an input that takes long or much memory.
"""

import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import atheris

with atheris.instrument_imports(include=["app", "PIL", "python_multipart", "model.predictor"]):
    from app.codecs import decode, encode
    from app.codecs.pillow import prepare_pillow
    from app.errors import BrokenImage, TooManyPixels, UnsupportedType
    from app.formats import MASK_FORMATS
    from app.http.forms import FormError, read_file
    from model.predictor import CANVAS_MULTIPLE, Predictor
    from model.scaling import find_content_size

import numpy as np

from model.engines.base import Engine
from model.scaling import scale_to
from model.weights import Metadata
from tests.app.corpus import corpus

MAX_PIXELS = 2**16
MAX_SIDES = (0, 32, 100)
BOUNDARY = "b0und"
CHUNK_BYTES = 1000
SEED_BYTES = 20_000
"""Larger files of the corpus are not used, because a fuzzer needs thousands of runs per second."""

DEFAULTS = [
    "-max_len=40000",
    "-timeout=10",  # seconds an input
    "-rss_limit_mb=1500",
]


METADATA = Metadata()
PREDICTOR = Predictor(cast(Engine, None), METADATA)
"""It only makes canvases of images. Nothing is computed."""


def upload(data: bytes) -> None:
    """One request: its first byte chooses how it is sent and its format. The rest is the body."""
    if not data:
        return
    choice, body = data[0], data[1:]
    file = asyncio.run(_file_of_form(body)) if choice & 0b1 else body
    if not file:
        return
    max_side = MAX_SIDES[choice // 2 % len(MAX_SIDES)]
    try:
        decoded = decode.decode_image(file, max_pixels=MAX_PIXELS, scaling=scale_to(max_side))
    except (BrokenImage, TooManyPixels, UnsupportedType):
        return
    height, width = decoded.size
    assert 0 < height * width <= MAX_PIXELS
    assert decoded.pixels.shape == (*find_content_size(decoded.size, scale_to(max_side)), 3)
    assert decoded.pixels.dtype == np.uint8
    canvas = PREDICTOR.prepare(decoded.pixels, scaling=scale_to(max_side), size=decoded.size)
    assert not any(side % CANVAS_MULTIPLE for side in canvas.size)
    assert canvas.region.output == decoded.size
    mask = np.zeros(decoded.size, np.uint8)
    mask[: decoded.pixels.shape[0], : decoded.pixels.shape[1]] = decoded.pixels[..., 0] % 21
    for answer in MASK_FORMATS:
        assert encode.encode_mask(mask, answer, METADATA)


async def _file_of_form(body: bytes) -> bytes | None:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), CHUNK_BYTES):
            yield body[start : start + CHUNK_BYTES]

    content_type = f"multipart/form-data; boundary={BOUNDARY}"
    try:
        data, _ = await read_file(content_type, chunks(), name="file")
    except FormError:
        return None
    return data


def form_of(data: bytes) -> bytes:
    disposition = 'Content-Disposition: form-data; name="file"; filename="a"'
    return f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--".encode()


def write_seeds(folder: Path) -> None:
    """Each file as a raw body and as a form."""
    for number, data in enumerate(corpus().values()):
        if len(data) <= SEED_BYTES:
            side = 2 * (number % len(MAX_SIDES))
            (folder / f"{number}-raw").write_bytes(bytes((side,)) + data)
            (folder / f"{number}-form").write_bytes(bytes((side + 1,)) + form_of(data))


def main() -> None:
    prepare_pillow()
    logging.disable()  # of each broken form, the parser says so
    with tempfile.TemporaryDirectory() as seeds:
        write_seeds(Path(seeds))
        # What the caller says goes last and wins; new inputs go into the caller's first folder.
        atheris.Setup([sys.argv[0], *DEFAULTS, *sys.argv[1:], seeds], upload)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
