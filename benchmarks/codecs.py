"""Our decoding and encoding beside the usual ways with Pillow, NumPy and json, in turns.

The photos are made of the repository's one, the masks are those that the shipped weights give them.
Knows nothing of servers.
"""

import argparse
import io
import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from app.images import decode, encode_json, encode_npy, encode_png
from benchmarks.photos import TWELVE_MEGAPIXELS, VOC_SIZE, made_photos
from benchmarks.report import Cell, in_turns, median_ms, write
from model.engines.base import Array, Size
from model.predictor import Predictor, open_predictor
from model.scaling import content_size
from model.weights import SHIPPED_WEIGHTS, Metadata, colormap

FULL_HD = (1080, 1920)
TINY = (16, 16)

LARGE_PIXELS = 4_000_000
"""From here on the plan's smaller number of rounds."""

MAX_PIXELS = 100_000_000

# Masks are made at this scale, as by a request with this max_side, and have the photo's size.
MASKS_MAX_SIDE = 1024

Row = dict[str, Cell]


@dataclass(frozen=True)
class Plan:
    """How much is measured. `sides`: of max_side; README's for large photos, and the service's."""

    sizes: tuple[Size, ...] = (VOC_SIZE, FULL_HD, TWELVE_MEGAPIXELS)
    sides: tuple[int, ...] = (640, 2048)
    rounds: int = 31
    large_rounds: int = 7

    def rounds_of(self, size: Size) -> int:
        return self.large_rounds if size[0] * size[1] > LARGE_PIXELS else self.rounds


@dataclass(frozen=True)
class Comparison:
    """The usual way and ours, and what says how far two of their results are the same."""

    what: str
    usually: str
    usual: Callable[[Any], Any]
    ours: Callable[[Any], Any]
    sameness: Callable[[Any, Any], str]

    def row(self, value: Any, tiny: Any, size: Size, plan: Plan) -> Row:
        usual, ours = partial(self.usual, value), partial(self.ours, value)
        seconds = in_turns({"usual": usual, "ours": ours}, rounds=plan.rounds_of(size))
        usual_ms, our_ms = median_ms(seconds["usual"]), median_ms(seconds["ours"])
        return {
            "what": self.what,
            "size": f"{size[0]} x {size[1]}",
            "usually": self.usually,
            "usual ms": usual_ms,
            "our ms": our_ms,
            "times as fast": usual_ms / our_ms,
            "usual bytes": file_bytes(value, usual()),
            "our bytes": file_bytes(value, ours()),
            "usual peak MiB": peak_mib(self.usual, value, tiny),
            "our peak MiB": peak_mib(self.ours, value, tiny),
            "the same": self.sameness(usual(), ours()),
        }


def decoding(kind: str, max_side: int, size: Size, predictor: Predictor) -> Comparison:
    return Comparison(
        what=f"decode {kind}" + (f", scaled to {max_side}" if max_side else ""),
        usually="Image.open, convert" + (", resize" if max_side else ""),
        usual=partial(decode_usually, max_side=max_side),
        ours=partial(decode_ours, max_side=max_side),
        sameness=partial(pixels_sameness, size=size, predictor=predictor),
    )


def encodings(metadata: Metadata) -> list[Comparison]:
    """PNG beside a picture of the colours, as it is usually sent, and beside the same answer."""
    colours = partial(colour_png, metadata=metadata)
    indices = partial(indexed_png_by_pillow, metadata=metadata)
    ours = partial(encode_png, metadata=metadata)
    our_json = partial(encode_json, metadata=metadata)
    colour = partial(alike, read=picture, words="every pixel")
    index = partial(alike, read=listed_mask, words="every index")
    byte = partial(alike, read=as_they_are, words="every byte")
    return [
        Comparison("encode PNG", "Pillow, RGB, level 6", colours, ours, colour),
        Comparison("encode PNG", "Pillow, indexed, level 1", indices, ours, colour),
        Comparison("encode JSON", "json, tolist", json_usually, our_json, index),
        Comparison("encode npy", "numpy.save", npy_usually, encode_npy, byte),
    ]


def decode_usually(data: bytes, *, max_side: int = 0) -> Array:
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    content = content_size((image.height, image.width), max_side)
    if content != (image.height, image.width):
        image = image.resize(content[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def decode_ours(data: bytes, *, max_side: int = 0) -> Array:
    return decode(data, max_pixels=MAX_PIXELS, max_side=max_side).pixels


def colour_png(mask: Array, *, metadata: Metadata) -> bytes:
    return saved(Image.fromarray(colormap(metadata)[mask]), "PNG")


def indexed_png_by_pillow(mask: Array, *, metadata: Metadata) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(colormap(metadata).tobytes())
    return saved(image, "PNG", compress_level=1)


def json_usually(mask: Array) -> bytes:
    return json.dumps({"mask": mask.tolist()}).encode()


def npy_usually(mask: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, mask)
    return file.getvalue()


def saved(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_sameness(usual: Array, ours: Array, *, size: Size, predictor: Predictor) -> str:
    """Of the pixels; where some differ, of the masks that come of them."""
    if np.array_equal(usual, ours):
        return "every pixel"
    max_side = max(ours.shape)
    canvases = [predictor.prepare(it, max_side=max_side, size=size) for it in (usual, ours)]
    masks = predictor.predict(canvases)
    return f"{100 * np.mean(masks[0] == masks[1]):.2f} % of the mask"


def alike(usual: bytes, ours: bytes, *, read: Callable[[bytes], Array], words: str) -> str:
    assert np.array_equal(read(usual), read(ours)), f"not {words} is the same"
    return words


def picture(data: bytes) -> Array:
    return np.asarray(opened(data).convert("RGB"))


def listed_mask(data: bytes) -> Array:
    return np.array(json.loads(data)["mask"], np.uint8)


def as_they_are(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def file_bytes(value: bytes | Array, result: bytes | Array) -> int:
    """The file's: what was decoded, or what was encoded."""
    return len(value) if isinstance(value, bytes) else len(result)


def peak_mib(function: Callable[[Any], object], value: Any, tiny: Any) -> int:
    """What one call takes at its peak, result included, in a process warmed up by a tiny one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return round(pool.apply(_peak_bytes, (function, value, tiny)) / 2**20)


def _peak_bytes(function: Callable[[Any], object], value: Any, tiny: Any) -> int:
    function(tiny)
    before = _memory("VmRSS")
    function(value)
    return max(0, _memory("VmHWM") - before)


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise OSError(f"/proc/self/status has no {name}: the memory is measured on Linux only")


def measure(plan: Plan, predictor: Predictor) -> list[Row]:
    rows = []
    for size in plan.sizes:
        photo, tiny = made_photos(1, size)[0], made_photos(1, TINY)[0]
        for kind in ("JPEG", "PNG"):
            if kind == "PNG":
                photo, tiny = (saved(opened(data), kind) for data in (photo, tiny))
            for side in (0, *(side for side in plan.sides if side < max(size))):
                comparison = decoding(kind, side, size, predictor)
                rows.append(comparison.row(photo, tiny, size, plan))
    for size in plan.sizes:
        mask = predictor(decode_usually(made_photos(1, size)[0]))
        assert np.array_equal(np.asarray(opened(encode_png(mask, predictor.metadata))), mask)
        for comparison in encodings(predictor.metadata):
            rows.append(comparison.row(mask, np.zeros(TINY, np.uint8), size, plan))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=Plan.rounds, help="of the smaller sizes")
    options = parser.parse_args(arguments)
    predictor = open_predictor(SHIPPED_WEIGHTS, device="cpu", max_side=MASKS_MAX_SIDE)
    rows = measure(Plan(rounds=options.rounds), predictor)
    write("codecs", "Decoding and encoding", rows, pillow=PIL.__version__)


if __name__ == "__main__":
    main()
