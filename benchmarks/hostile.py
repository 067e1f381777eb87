"""What hostile images cost: seconds and memory of decoding each, with the default limits.

Each file is decoded in a process of its own, forked for it; those that use the limits to the full
come beside the files of the tests' corpus. Knows nothing of the server.
"""

import argparse
import os
import time
import zlib
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

from PIL import Image

from app.errors import Problem
from app.images import decode
from app.pictures import prepare_pillow
from app.settings import Settings
from benchmarks.memory import MIB, ProcessTree
from benchmarks.report import Cell, write
from tests.app.corpus import corpus, picture, png, saved

SIDE = 5000
"""Its square is the default SEG_MAX_PIXELS."""

SHOWN = 6
"""Of the corpus' files, the slowest; and the one of the most memory."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.parse_args()
    prepare_pillow()
    Image.init()  # in each fork it would count
    small = [measured(name, data) for name, data in corpus().items()]
    rows = sorted(small, key=lambda row: -float(row["decode, s"]))[:SHOWN]
    largest = max(small, key=lambda row: float(row["memory, MiB"]))
    rows += [largest] if largest not in rows else []
    rows += [measured(name, make()) for name, make in FULL.items()]
    write("hostile", "What hostile images cost", rows, files=len(small))


def measured(name: str, data: bytes) -> dict[str, Cell]:
    ours, theirs = get_context("fork").Pipe()
    process = get_context("fork").Process(target=decode_once, args=(theirs, data))
    process.start()
    seconds, memory_bytes, outcome = ours.recv()
    process.join()
    return {
        "file": name,
        "bytes": len(data),
        "decode, s": round(seconds, 3),
        "memory, MiB": round(memory_bytes / MIB),
        "outcome": outcome,
    }


def decode_once(answer: Connection, data: bytes) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff complains there
    settings, memory = Settings(), ProcessTree(os.getpid())
    memory.reset_peak()
    before, started = memory.peak_bytes(), time.perf_counter()
    try:
        decoded = decode(data, max_pixels=settings.max_pixels, max_side=settings.max_side)
        outcome = "{} x {}".format(*decoded.size)
    except Problem as problem:
        outcome = problem.name
    seconds = time.perf_counter() - started
    answer.send((seconds, memory.peak_bytes() - before, outcome))


def flat(mode: str, kind: str, **options: object) -> bytes:
    return saved(Image.new(mode, (SIDE, SIDE)), kind, **options)


def many_scans() -> bytes:
    data = flat("RGB", "JPEG", progressive=True, subsampling=0)
    last = data.rindex(b"\xff\xda\0")
    return data[:-2] + data[last:-2] * 85 + data[-2:]


def deep_png() -> bytes:
    rows = bytes(SIDE * (8 * SIDE + 8))
    return png(SIDE, SIDE, depth=16, colour=6, interlaced=True, pixels=rows)


def many_segments() -> bytes:
    data = saved(picture(), "JPEG")
    return data[:2] + b"\xff\xe0\0\2" * (8 * MIB) + data[2:]


FULL: dict[str, Callable[[], bytes]] = {
    "25 megapixels: flat PNG": lambda: png(SIDE, SIDE, pixels=bytes(SIDE * (3 * SIDE + 1))),
    "25 megapixels: interlaced PNG, 16 bits, alpha": deep_png,
    "25 megapixels: flat WebP": lambda: flat("RGB", "WEBP", lossless=True, method=0),
    "25 megapixels: flat GIF": lambda: flat("P", "GIF"),
    "25 megapixels: TIFF of integers": lambda: flat("I", "TIFF", compression="tiff_lzw"),
    "25 megapixels: TIFF of floats": lambda: flat("F", "TIFF", compression="tiff_lzw"),
    "25 megapixels: progressive CMYK JPEG": lambda: flat("CMYK", "JPEG", progressive=True),
    "25 megapixels: JPEG in 95 scans": many_scans,
    "32 MiB: JPEG of empty segments": many_segments,
    "32 MiB: PNG of private chunks": lambda: png(9, 9, before=[(b"prVt", b"")] * 2_700_000),
    "32 MiB: texts of a PNG, compressed 1000 times": lambda: png(
        9, 9, before=[(b"zTXt", b"k\0\0" + zlib.compress(bytes(MIB), 9))] * 30_000
    ),
}


if __name__ == "__main__":
    main()
