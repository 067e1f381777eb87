"""Our decoding and encoding compared with the usual code with Pillow, NumPy and json, in turns.

The photos are made from the repository's photo, and their masks are those of the shipped weights.
Knows nothing of servers.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import PIL
from PIL import Image

from app.codecs.decode import decode_image
from app.codecs.encode import encode_json, encode_npy, encode_png
from benchmarks import report
from benchmarks.photos import TWELVE_MEGAPIXELS, VOC_SIZE, decode_photo, encode_image, make_photos
from benchmarks.process import start_worker
from benchmarks.report import Quick, Row, median_ms, publish, read_plan, run_in_turns
from benchmarks.watch import MIB, ProcessTree
from model.engines.base import Array, Size
from model.predictor import Predictor, open_predictor
from model.scaling import find_content_size, scale_to
from model.weights import SHIPPED_WEIGHTS, Metadata, get_colormap

TINY = (16, 16)
MAX_PIXELS = 100_000_000

MASKS_MAX_SIDE = 1024
"""Masks are computed with this max_side. They have the photo's size."""


@dataclass(frozen=True)
class Plan(report.Plan):
    rounds: Annotated[int, "number of rounds of the smaller sizes", Quick(1)] = 31
    large_rounds: Annotated[int, "number of rounds of twelve megapixels"] = 7
    sizes: Annotated[Sequence[Size], Quick((VOC_SIZE,))] = (
        VOC_SIZE,
        (1080, 1920),
        TWELVE_MEGAPIXELS,
    )
    sides: Annotated[Sequence[int], Quick((320,))] = (640, 2048)
    """The values of max_side, for photos that are larger."""


@dataclass(frozen=True)
class Comparison:
    """The usual code and ours; `check` describes how far their results are equal."""

    what: str
    usually: str
    usual: Callable[[Any], Any]
    ours: Callable[[Any], Any]
    check: Callable[[Any, Any], str]

    def measure(self, value: Any, tiny: Any, size: Size, plan: Plan) -> Row:
        usual, ours = partial(self.usual, value), partial(self.ours, value)
        rounds = plan.large_rounds if size == TWELVE_MEGAPIXELS else plan.rounds
        seconds = run_in_turns({"usual": usual, "ours": ours}, rounds=rounds)
        usual_ms, our_ms = median_ms(seconds["usual"]), median_ms(seconds["ours"])
        # The file is the input of decoding, or the result of encoding.
        files = (value, value) if isinstance(value, bytes) else (usual(), ours())
        return {
            "what": self.what,
            "size": f"{size[0]} x {size[1]}",
            "usually": self.usually,
            "usual ms": usual_ms,
            "our ms": our_ms,
            "times as fast": usual_ms / our_ms,
            "usual bytes": len(files[0]),
            "our bytes": len(files[1]),
            "usual peak MiB": measure_peak_mib(self.usual, value, tiny),
            "our peak MiB": measure_peak_mib(self.ours, value, tiny),
            "the same": self.check(usual(), ours()),
        }


def measure_peak_mib(function: Callable[[Any], object], value: Any, tiny: Any) -> int:
    """Measure the peak memory of one call in a process that a tiny call has warmed up."""
    with start_worker() as call:
        return round(call(_measure_peak_bytes, function, value, tiny) / MIB)


def _measure_peak_bytes(function: Callable[[Any], object], value: Any, tiny: Any) -> int:
    function(tiny)
    memory = ProcessTree(os.getpid())
    memory.reset_peak()
    before = memory.measure_peak_bytes()
    function(value)
    return max(0, memory.measure_peak_bytes() - before)


def decode_usually(data: bytes, *, max_side: int) -> Array:
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    content = find_content_size((image.height, image.width), scale_to(max_side))
    if content != (image.height, image.width):
        image = image.resize(content[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def decode_ours(data: bytes, *, max_side: int) -> Array:
    return decode_image(data, max_pixels=MAX_PIXELS, scaling=scale_to(max_side)).pixels


def compare_pixels(usual: Array, ours: Array, *, size: Size, predictor: Predictor) -> str:
    """Return "every pixel", or the equal share of the masks where some pixels differ."""
    if np.array_equal(usual, ours):
        return "every pixel"
    max_side = max(ours.shape)
    canvases = [
        predictor.prepare(it, scaling=scale_to(max_side), size=size) for it in (usual, ours)
    ]
    masks = predictor.predict(canvases)
    return f"{100 * np.mean(masks[0] == masks[1]):.2f} % of the mask"


def measure_decoding(plan: Plan, predictor: Predictor) -> Iterator[Row]:
    for size in plan.sizes:
        photos = [make_photos(1, one)[0] for one in (size, TINY)]
        pngs = [encode_image(Image.fromarray(decode_photo(photo)), "PNG") for photo in photos]
        for kind, (photo, tiny) in {"JPEG": photos, "PNG": pngs}.items():
            for side in (0, *(side for side in plan.sides if side < max(size))):
                comparison = Comparison(
                    f"decode {kind}" + f", scaled to {side}" * bool(side),
                    "Image.open, convert" + ", resize" * bool(side),
                    partial(decode_usually, max_side=side),
                    partial(decode_ours, max_side=side),
                    partial(compare_pixels, size=size, predictor=predictor),
                )
                yield comparison.measure(photo, tiny, size, plan)


def encode_colour_png(mask: Array, *, metadata: Metadata) -> bytes:
    """Encode a picture in colours, as masks are usually sent."""
    return encode_image(Image.fromarray(get_colormap(metadata)[mask]), "PNG")


def encode_indexed_png(mask: Array, *, metadata: Metadata) -> bytes:
    image = Image.fromarray(mask)
    image.putpalette(get_colormap(metadata).tobytes())
    return encode_image(image, "PNG", compress_level=1)


def encode_json_usually(mask: Array) -> bytes:
    return json.dumps({"mask": mask.tolist()}).encode()


def encode_npy_usually(mask: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, mask)
    return file.getvalue()


def compare_files(usual: bytes, ours: bytes, *, read: Callable[[bytes], Any], words: str) -> str:
    assert np.array_equal(read(usual), read(ours)), f"not {words} is the same"
    return words


def measure_encoding(plan: Plan, predictor: Predictor) -> Iterator[Row]:
    metadata = predictor.metadata
    png, our_json = (partial(encode, metadata=metadata) for encode in (encode_png, encode_json))
    colours = partial(encode_colour_png, metadata=metadata)
    indices = partial(encode_indexed_png, metadata=metadata)
    check_pixels = partial(compare_files, read=decode_photo, words="every pixel")
    check_json = partial(compare_files, read=lambda x: json.loads(x)["mask"], words="every index")
    check_bytes = partial(compare_files, read=bytes, words="every byte")
    comparisons = [
        Comparison("encode PNG", "Pillow, RGB, level 6", colours, png, check_pixels),
        Comparison("encode PNG", "Pillow, indexed, level 1", indices, png, check_pixels),
        Comparison("encode JSON", "json, tolist", encode_json_usually, our_json, check_json),
        Comparison("encode npy", "numpy.save", encode_npy_usually, encode_npy, check_bytes),
    ]
    for size in plan.sizes:
        mask = predictor(decode_photo(make_photos(1, size)[0]))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(mask)))), mask)
        for comparison in comparisons:
            yield comparison.measure(mask, np.zeros(TINY, np.uint8), size, plan)


def main() -> None:
    plan = read_plan(Plan, "codecs", __doc__)
    predictor = open_predictor(SHIPPED_WEIGHTS, device="cpu", scaling=scale_to(MASKS_MAX_SIDE))
    rows = [*measure_decoding(plan, predictor), *measure_encoding(plan, predictor)]
    publish("codecs", "Decoding and encoding", rows, plan=plan, pillow=PIL.__version__)


if __name__ == "__main__":
    main()
