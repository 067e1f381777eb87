"""The most that an upload can cost, found by search: each format's knobs are turned uphill.

Each try is decoded by a fresh decoder process, as the server does it, with the default limits, and
costs processor time and memory. Knows what a file's header can say; nothing of the server.
"""

import io
import random
import resource
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from PIL import Image

from app.codecs.decoder_process import DecoderProcess
from app.errors import RequestError
from app.settings import Settings
from benchmarks import report
from benchmarks.report import Row, publish, read_plan
from benchmarks.watch import ProcessTree
from model.scaling import content_size
from tests.app.corpus import PNG_KINDS, PNG_SAMPLES, bmp, more_scans, picture, png, saved, tiff

Choices = dict[str, int]
SHAPES = ((5000, 5000), (25_000_000, 1), (1, 25_000_000), (381, 65_500), (65_500, 381), (16, 16))
"""Height and width; what a format cannot have is made smaller."""
SIDES = (512, 0)
KNOBS: dict[str, dict[str, int]] = {
    "JPEG": {
        "shape": 6, "mode": 3, "progressive": 2, "sampling": 3, "scans": 3, "noise": 2, "side": 2,
    },
    "PNG": {"shape": 6, "kind": 15, "interlaced": 2, "filter": 5, "noise": 2, "side": 2},
    "WEBP": {"shape": 6, "lossless": 2, "alpha": 2, "noise": 2, "side": 2},
    "GIF": {"shape": 6, "interlaced": 2, "noise": 2, "side": 2},
    "BMP": {"shape": 6, "bits": 6, "side": 2},
    "TIFF": {
        "shape": 6, "compression": 12, "strips": 5, "bits": 5, "samples": 4, "planar": 2,
        "predictor": 3, "junk": 3, "side": 2,
    },
}  # fmt: skip
"""How many positions each has."""


@dataclass(frozen=True)
class Cost:
    bytes: int
    seconds: float
    memory_bytes: int
    outcome: str
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Plan(report.Plan):
    seconds: Annotated[float, "of search for each format and goal"] = 60.0
    seed: Annotated[int, "of the search"] = 0


def main() -> None:
    plan = read_plan(Plan, "attacks", __doc__, quick={"seconds": 0.0})
    rows, tries = [], 0
    for kind in KNOBS:
        for goal in GOALS:
            (choices, cost), count = climb(kind, GOALS[goal], seconds=plan.seconds, seed=plan.seed)
            tries += count
            rows.append(describe(kind, goal, choices, cost))
            print(rows[-1], flush=True)
    publish("attacks", "The most that an upload can cost", rows, plan=plan, tries=tries)


GOALS: dict[str, Callable[[Cost], float]] = {
    "seconds": lambda cost: cost.seconds,
    "memory": lambda cost: cost.memory_bytes,
}


def describe(kind: str, goal: str, choices: Choices, cost: Cost) -> Row:
    return {
        "format": kind,
        "goal": goal,
        "file": " ".join(f"{name}={value}" for name, value in choices.items()),
        "bytes": cost.bytes,
        "processor, s": round(cost.seconds, 2),
        "ms a byte": round(1000 * cost.seconds / cost.bytes, 3),
        "memory, bytes a pixel": round(cost.memory_bytes / cost.pixels, 1) if cost.pixels else "",
        "outcome": cost.outcome,
    }


def climb(
    kind: str, goal: Callable[[Cost], float], *, seconds: float, seed: int
) -> tuple[tuple[Choices, Cost], int]:
    """The worst that was found, and the number of tries. From a summit it starts elsewhere."""
    rng, ends = random.Random(seed), time.monotonic() + seconds
    worst: tuple[Choices, Cost] | None = None
    tries = 0
    while worst is None or time.monotonic() < ends:
        here = {knob: rng.randrange(count) for knob, count in KNOBS[kind].items()}
        cost = measure(make(kind, here), SIDES[here["side"]])
        tries += 1
        for there in list_neighbours(kind, here, rng):
            if worst is not None and time.monotonic() >= ends:
                break
            tries += 1
            other = measure(make(kind, there), SIDES[there["side"]])
            if goal(other) > goal(cost):
                here, cost = there, other
        if worst is None or goal(cost) > goal(worst[1]):
            worst = here, cost
    return worst, tries


def list_neighbours(kind: str, choices: Choices, rng: random.Random) -> Iterator[Choices]:
    """Each differs in one knob, in random order."""
    turns = [
        (knob, value)
        for knob, count in KNOBS[kind].items()
        for value in range(count)
        if value != choices[knob]
    ]
    rng.shuffle(turns)
    for knob, value in turns:
        yield choices | {knob: value}


def measure(data: bytes, side: int) -> Cost:
    limits = Settings()
    if len(data) > limits.max_body_bytes:
        return Cost(len(data), 0, 0, "BodyTooLarge", 0)
    process, size = DecoderProcess(), (0, 0)

    def plan(stored: tuple[int, int]) -> tuple[int, int]:
        nonlocal size
        size = stored
        return content_size(stored, side)

    process.decode(saved(picture(), "PNG"), max_pixels=limits.max_pixels, plan=lambda size: size)
    tree = ProcessTree(process._popen.pid)
    tree.reset_peak()
    cpu_s, held_bytes = tree.measure_cpu_s(), tree.measure_peak_bytes()
    ended_s = measure_ended_children_s()
    received = 0
    try:
        decoded = process.decode(data, max_pixels=limits.max_pixels, plan=plan)
        received, outcome = decoded.pixels.nbytes, "{} x {}".format(*decoded.size)
    except RequestError as problem:
        outcome = type(problem).__name__
    memory_bytes = 0
    with suppress(OSError, AssertionError):  # it may have ended
        cpu_s, memory_bytes = (
            tree.measure_cpu_s() - cpu_s,
            tree.measure_peak_bytes() - held_bytes + received,
        )
    process.end()
    if process.ended_by is not None:
        cpu_s = measure_ended_children_s() - ended_s - cpu_s
    pixels = size[0] * size[1]
    return Cost(len(data), cpu_s, max(0, memory_bytes - len(data)), outcome, pixels)


def measure_ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make(kind: str, choices: Choices) -> bytes:
    return MAKERS[kind](choices, *SHAPES[choices["shape"]])


def pillow_picture(mode: str, height: int, width: int, *, noise: bool, limit: int) -> Image.Image:
    size = min(width, limit), min(height, limit)
    if not noise:
        return Image.new(mode, size)
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    rows, columns = -(-size[1] // 64), -(-size[0] // 64)
    return Image.fromarray(np.tile(tile, (rows, columns, 1))[: size[1], : size[0]]).convert(mode)


def make_jpeg(choices: Choices, height: int, width: int) -> bytes:
    mode = ("L", "RGB", "CMYK")[choices["mode"]]
    image = pillow_picture(mode, height, width, noise=bool(choices["noise"]), limit=65_500)
    progressive = bool(choices["progressive"])
    data = saved(image, "JPEG", progressive=progressive, subsampling=choices["sampling"])
    return more_scans(data, (0, 30, 99)[choices["scans"]]) if progressive else data


def make_png(choices: Choices, height: int, width: int) -> bytes:
    depth, colour = PNG_KINDS[choices["kind"]]
    row_bytes = (width * depth * PNG_SAMPLES[colour] + 7) // 8
    row = bytes((choices["filter"],)) + (bytes(range(251)) * (row_bytes // 251 + 1))[:row_bytes]
    if not choices["noise"]:
        row = row[:1] + bytes(row_bytes)
    return png(
        width, height, depth=depth, colour=colour, interlaced=bool(choices["interlaced"]),
        pixels=row * height,
    )  # fmt: skip


def make_webp(choices: Choices, height: int, width: int) -> bytes:
    mode = "RGBA" if choices["alpha"] else "RGB"
    limit = 16_383
    image = pillow_picture(mode, height, width, noise=bool(choices["noise"]), limit=limit)
    return saved(image, "WEBP", lossless=bool(choices["lossless"]), method=0, quality=10)


def make_gif(choices: Choices, height: int, width: int) -> bytes:
    image = pillow_picture("P", height, width, noise=bool(choices["noise"]), limit=65_535)
    return saved(image, "GIF", interlace=choices["interlaced"])


def make_bmp(choices: Choices, height: int, width: int) -> bytes:
    bits, compression = ((1, 0), (8, 0), (24, 0), (32, 0), (8, 1), (4, 2))[choices["bits"]]
    if compression:
        height, width = min(height, 1400), min(width, 1400)
    size = 6 if compression else min((width * bits + 31) // 32 * 4 * height, 30_000_000)
    return bmp(width, height, bits=bits, compression=compression, pixels=bytes(size))


TIFF_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 34925, 50000, 50001)


def make_tiff(choices: Choices, height: int, width: int) -> bytes:
    compression = TIFF_COMPRESSIONS[choices["compression"]]
    strips = min((1, 16, 1000, 30_000, 2**16)[choices["strips"]], height)
    rows = -(-height // strips)
    strips = -(-height // rows)
    bits, samples = (1, 8, 16, 32, 64)[choices["bits"]], choices["samples"] + 1
    pixels = tiff_strip(choices, compression, rows, width, (width * bits * samples + 7) // 8 * rows)
    tags = {
        256: width, 257: height, 258: [bits] * samples, 259: compression,
        262: 2 if samples >= 3 else 1, 273: [8] * strips, 277: samples, 278: rows,
        279: [len(pixels)] * strips, 284: 1 + choices["planar"], 317: 1 + choices["predictor"],
    }  # fmt: skip
    return tiff(tags, pixels=pixels)


def tiff_strip(choices: Choices, compression: int, rows: int, width: int, size: int) -> bytes:
    """All strips lie at one place: valid where it is easy, or else junk or zeros."""
    if compression == 8 and choices["junk"] == 0:
        return zlib.compress(bytes(min(size, 200_000_000)), 9)
    if compression in (6, 7) and choices["junk"] == 0:
        jpeg = Image.new("RGB", (min(width, 65_500), min(rows, 65_500)))
        file = io.BytesIO()
        jpeg.save(file, "JPEG", progressive=bool(choices["predictor"]))
        return more_scans(file.getvalue(), 90) if choices["predictor"] else file.getvalue()
    return bytes(4000) if choices["junk"] == 1 else random.Random(1).randbytes(4000)


MAKERS: dict[str, Callable[[Choices, int, int], bytes]] = {
    "JPEG": make_jpeg,
    "PNG": make_png,
    "WEBP": make_webp,
    "GIF": make_gif,
    "BMP": make_bmp,
    "TIFF": make_tiff,
}


if __name__ == "__main__":
    main()
