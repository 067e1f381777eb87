"""Draw photos, their masks, and the masks over the photos, as in the README's picture.

Run as `python -m model.gallery PICTURE PHOTO...`. Needs no PyTorch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from model.engines.base import Array
from model.errors import ModelError
from model.extras import name_program
from model.predictor import Predictor, open_predictor
from model.scaling import SERVED
from model.training.photos import read_photo
from model.weights import SHIPPED_WEIGHTS, get_colormap

HEIGHT = 240
"""The height of each photo in the picture, in pixels."""

GAP = 6
WHITE = 255

COLOUR_SHARE = 0.6
"""The opacity of the classes' colours over the photo."""


def draw_gallery(predictor: Predictor, photos: Sequence[Array]) -> Array:
    """Return a picture (H, W, 3) with a column for each photo (H, W, 3)."""
    columns = [draw_column(predictor, photo) for photo in photos]
    gap = np.full((columns[0].shape[0], GAP, 3), WHITE, np.uint8)
    return np.concatenate([part for column in columns for part in (column, gap)][:-1], axis=1)


def draw_column(predictor: Predictor, photo: Array) -> Array:
    """Return the photo, its mask in the classes' colours, and the mask over the photo, stacked."""
    mask = predictor(photo)
    colours = get_colormap(predictor.metadata)[mask]
    share = COLOUR_SHARE * (mask != 0)[..., None]
    both = (photo + share * (colours.astype(float) - photo)).round().astype(np.uint8)
    cells = [_scale(picture) for picture in (photo, colours, both)]
    gap = np.full((GAP, cells[0].shape[1], 3), WHITE, np.uint8)
    return np.concatenate([part for cell in cells for part in (cell, gap)][:-1])


def _scale(picture: Array) -> Array:
    height, width = picture.shape[:2]
    size = max(1, round(width * HEIGHT / height)), HEIGHT
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name_program("python -m model.gallery"), description=__doc__
    )
    parser.add_argument("picture", type=Path, help="PNG file to write")
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="image file")
    parser.add_argument(
        "--weights", type=Path, default=SHIPPED_WEIGHTS, help="weights file (the shipped one)"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    try:
        predictor = open_predictor(options.weights, device="cpu", scaling=SERVED)
        picture = draw_gallery(predictor, [read_photo(path) for path in options.photos])
        Image.fromarray(picture).save(options.picture, "PNG", optimize=True)
    except (ModelError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
