"""Draw a small data set of two classes, to try training on: coins on textures, and their masks.

Run as `python -m model.shapes --output DIR`. Writes `images/`, `masks/`, painted in the classes'
own colours, and `classes.toml`. The same seed draws the same pictures.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from model.arguments import parse_count, parse_number
from model.engines.base import Array, Size
from model.errors import ModelError
from model.outputs import require_folder

SIZES: tuple[Size, ...] = ((96, 128), (128, 96), (112, 144))
MAX_COINS = 3
COIN, BACKGROUND, VOID = (255, 215, 0), (32, 48, 64), (255, 255, 255)
CLASSES = f"""# The classes of the masks: their names, and the colours that they are painted in.
void = {list(VOID)}

[[classes]]
name = "background"
colour = {list(BACKGROUND)}

[[classes]]
name = "coin"
colour = {list(COIN)}
"""


def draw_shapes(folder: Path, *, images: int, seed: int) -> None:
    """Write the data set. Overwrites the files of an earlier one."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "classes.toml").write_text(CLASSES)
    for number in range(images):
        rng = np.random.default_rng((seed, number))
        photo, mask = draw_pair(SIZES[number % len(SIZES)], rng)
        suffix = ("jpg", "png", "webp")[number % 3]
        photo.save(folder / "images" / f"coins {number:03d}.{suffix}", quality=92)
        mask.save(folder / "masks" / f"coins {number:03d}.png")


def draw_pair(size: Size, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Return a picture of some coins and its mask: each coin with a border of void."""
    height, width = size
    photo = Image.fromarray(draw_texture(size, rng))
    mask = Image.new("RGB", (width, height), BACKGROUND)
    on_photo, on_mask = ImageDraw.Draw(photo), ImageDraw.Draw(mask)
    for _ in range(int(rng.integers(1, MAX_COINS + 1))):
        x, y = rng.uniform(0.1, 0.9, 2) * (width, height)
        radius = rng.uniform(0.12, 0.28) * min(size)
        shade = rng.uniform(0.7, 1.0)
        rim, face = (tuple(int(shade * level) for level in c) for c in ((150, 100, 20), COIN))
        on_photo.circle((x, y), radius, fill=rim)
        on_photo.circle((x, y), 0.85 * radius, fill=face)
        on_mask.circle((x, y), radius + 1, fill=VOID)
        on_mask.circle((x, y), radius - 1, fill=COIN)
    noisy = np.asarray(photo) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)), mask


def draw_texture(size: Size, rng: np.random.Generator) -> Array:
    """Stripes, squares or clouds of two cool colours, (H, W, 3) uint8."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    period = int(rng.integers(6, 24))
    angle = rng.uniform(0, np.pi)
    waves = np.sin(2 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) / period)
    squares = (rows // period + columns // period) % 2
    clouds = _draw_clouds(size, rng)
    share = (0.5 + 0.5 * waves, squares.astype(np.float64), clouds)[int(rng.integers(3))]
    colours = rng.uniform((0, 20, 60), (110, 170, 230), (2, 3))
    texture: Array = (colours[0] + share[..., None] * (colours[1] - colours[0])).astype(np.uint8)
    return texture


def _draw_clouds(size: Size, rng: np.random.Generator) -> NDArray[np.float64]:
    """Noise of three sizes, smooth, 0 to 1."""
    clouds = np.zeros(size)
    for cells in (4, 8, 16):
        coarse = Image.fromarray(rng.random((cells, cells), np.float32))
        clouds += np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC)) / cells
    clouds -= clouds.min()
    clouds /= clouds.max()
    return clouds


def main(arguments: list[str] | None = None) -> None:
    options = build_parser().parse_args(arguments)
    try:
        require_folder(options.output)
    except ModelError as error:
        sys.exit(f"error: {error}")
    draw_shapes(options.output, images=options.number, seed=options.seed)
    print(f"drew {options.number} images with their masks into {options.output}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.shapes", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument(
        "--number", type=parse_number, default=24, help="number of images (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=parse_count, default=0, help="seed of the drawing (default: 0)"
    )
    return parser


if __name__ == "__main__":
    main()
