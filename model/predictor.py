"""Images of any size in, masks of the same sizes out: scale, canvas, engine, crop.

The service, the evaluation and the figures all predict with it. Imports no torch:
`model.engines.choice` decides which engine runs.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import numpy as np
from PIL import Image

from model.engines.base import Array, Engine, EngineName, Precision, Region, Size
from model.engines.choice import start_engine
from model.errors import DeviceLost, EngineError
from model.golden import require_golden_mask
from model.scaling import UNSCALED, Scaling, find_content_size, scale_down
from model.weights import Metadata, Weights, read_weights

log = logging.getLogger(__name__)

CANVAS_MULTIPLE = 32
"""The network's stride: a canvas' sides are multiples of it."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """One image as the engine takes it: `pixels` (H, W, 3) uint8, and the region of the picture."""

    pixels: Array
    region: Region

    @property
    def size(self) -> Size:
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def computed_pixels(self) -> int:
        """The pixels of the canvas and of its mask: an engine's time grows with both."""
        return math.prod(self.size) + math.prod(self.region.output)


class Segmenter(Protocol):
    """Turns an image (H, W, 3) uint8 into a mask (H, W) uint8, which is all that scoring needs."""

    metadata: Metadata

    def __call__(self, image: Array) -> Array: ...


class Predictor:
    """An engine with the weights it runs."""

    def __init__(self, engine: Engine, metadata: Metadata, *, scaling: Scaling = UNSCALED) -> None:
        self.engine = engine
        self.metadata = metadata
        self.scaling = scaling
        self._fill = find_fill_colour(metadata)

    def __call__(self, image: Array) -> Array:
        """One RGB image (H, W, 3) uint8 to its mask (H, W) uint8."""
        return self.predict([self.prepare(image)])[0]

    def prepare(
        self, image: Array, *, scaling: Scaling | None = None, size: Size | None = None
    ) -> Canvas:
        """Make the canvas of one RGB image (H, W, 3) uint8, which depends on this image alone.

        The image is scaled down if it is too large, then padded right and below with the mean
        colour to multiples of 32. `scaling` overrides the predictor's. `size`: the original size of
        a scaled image.
        """
        output = size or (image.shape[0], image.shape[1])
        content = find_content_size(output, self.scaling if scaling is None else scaling)
        if image.shape[:2] != content:
            image = np.asarray(scale_down(Image.fromarray(image), content))
        height, width = find_canvas_size(content)
        region = Region(content, output)
        if (height, width) == content:
            return Canvas(image, region)
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[: content[0], : content[1]] = image
        pixels[content[0] :] = self._fill
        pixels[: content[0], content[1] :] = self._fill
        return Canvas(pixels, region)

    def predict(self, canvases: Sequence[Canvas]) -> list[Array]:
        """Return the masks of canvases that all have the same size."""
        return self.engine.segment(*_split(canvases))

    def measure_confidence(self, canvases: Sequence[Canvas]) -> list[Array]:
        """Return the softmax of each pixel's class, 0 to 255, for canvases of the same size."""
        return self.engine.measure_confidence(*_split(canvases))


def _split(canvases: Sequence[Canvas]) -> tuple[list[Array], list[Region]]:
    return [canvas.pixels for canvas in canvases], [canvas.region for canvas in canvases]


def find_canvas_size(content: Size) -> Size:
    """Return the smallest multiples of 32 that hold the content."""
    height, width = (-(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE for side in content)
    return height, width


def find_fill_colour(metadata: Metadata) -> tuple[int, int, int]:
    """Return the mean colour, which pads canvases: it normalises to about zero."""
    red, green, blue = (round(255 * value) for value in metadata.mean)
    return red, green, blue


class EngineOptions(TypedDict, total=False):
    """The options of `start_predictor` that choose its engine, for functions that pass them on."""

    engine: EngineName
    device: str
    threads: int
    precision: Precision
    number: int


def open_predictor(
    path: Path, *, scaling: Scaling = UNSCALED, **options: Unpack[EngineOptions]
) -> Predictor:
    """Read a weights file, start an engine as `start_engine` chooses, and check its golden mask.

    Raises WeightsError for the file, and EngineError for engine and device.
    """
    return start_predictor(read_weights(path), scaling=scaling, **options)


def start_predictor(
    weights: Weights,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    threads: int = 0,
    precision: Precision = "float32",
    number: int = 0,
    scaling: Scaling = UNSCALED,
) -> Predictor:
    """Start a predictor as `open_predictor` does, for weights that are in memory.

    "auto" falls back to float32 for weights whose values are too large for float16.
    """
    start = partial(
        start_engine, weights, engine=engine, device=device, threads=threads, number=number
    )
    started = start(precision=precision)
    try:
        return use_engine(started, weights, scaling=scaling)
    except DeviceLost:
        raise
    except EngineError as error:
        if precision == "float32" or (precision == "auto" and started.device == "cpu"):
            raise
        if precision != "auto":
            raise EngineError(f"{error}. SEG_PRECISION=float32 is exact") from error
        log.warning("%s. SEG_PRECISION=float32 is used instead, which is slower", error)
    return use_engine(start(precision="float32"), weights, scaling=scaling)


def use_engine(engine: Engine, weights: Weights, *, scaling: Scaling = UNSCALED) -> Predictor:
    """Return a predictor with an engine that runs these weights: EngineError if it does not."""
    require_golden_mask(engine, weights)
    return Predictor(engine, weights.metadata, scaling=scaling)


def create_predictor(
    weights: Weights, *, device: str = "auto", scaling: Scaling = UNSCALED
) -> Predictor:
    """Create a predictor for weights in memory, such as those of a running training."""
    return Predictor(start_engine(weights, device=device), weights.metadata, scaling=scaling)
