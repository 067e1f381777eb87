"""Joint transforms of an image and its target, and the normalisation before the network.

Images are (H, W, 3) uint8 RGB, targets (H, W) uint8 class indices. What is random draws from the
generator that it is given and from nothing else. Knows nothing of files or of networks.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from model.classes import IGNORE_INDEX
from model.engines.base import Array, Size

COLOUR_JITTER = 0.3
"""Brightness, contrast and saturation are each multiplied by 1 +- this."""
GREYSCALE_SHARE = 0.05


def void_to_background(target: Array) -> Array:
    """The notebook's reading of a mask: the void border counts as background, index 0."""
    return np.where(target == IGNORE_INDEX, np.uint8(0), target)


def random_crop(
    image: Array, target: Array, *, size: Size, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The same random window of both; neither is scaled. Each side must hold the crop."""
    height, width = target.shape
    crop_height, crop_width = size
    top = int(rng.integers(0, height - crop_height + 1))
    left = int(rng.integers(0, width - crop_width + 1))
    window = np.s_[top : top + crop_height, left : left + crop_width]
    return image[window], target[window]


def augment(
    image: Array,
    target: Array,
    *,
    size: Size,
    scale: tuple[float, float],
    fill: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """A random view of both, of exactly `size`: scaled, cropped or padded, flipped, recoloured.

    The longer side becomes `scale` crops long, drawn log-uniformly. Where the scaled image is
    smaller than the crop it lies at a random place, the rest is `fill` in the image and void in
    the target. Only the window that stays visible is resampled.
    """
    height, width = target.shape
    longer_side = max(size) * math.exp(rng.uniform(math.log(scale[0]), math.log(scale[1])))
    factor = longer_side / max(height, width)
    rows = _VisibleSpan(size[0], height, factor, rng)
    columns = _VisibleSpan(size[1], width, factor, rng)

    source_box = (columns.start, rows.start, columns.stop, rows.stop)
    scaled_size = (columns.length, rows.length)
    picture = Image.fromarray(image).resize(
        scaled_size, Image.Resampling.BILINEAR, box=source_box, reducing_gap=None
    )
    labels = Image.fromarray(target).resize(scaled_size, Image.Resampling.NEAREST, box=source_box)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        labels = labels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    image_view = np.empty((*size, 3), np.uint8)
    image_view[:] = fill
    target_view = np.full(size, IGNORE_INDEX, np.uint8)
    place = np.s_[
        rows.offset : rows.offset + rows.length, columns.offset : columns.offset + columns.length
    ]
    image_view[place] = np.asarray(_recolour(picture, rng))
    target_view[place] = np.asarray(labels)
    return image_view, target_view


class _VisibleSpan:
    """Along one side: the part of the source that is seen, and where it lies in the crop."""

    def __init__(self, crop: int, source: int, factor: float, rng: np.random.Generator) -> None:
        scaled = max(1, round(source * factor))
        position = int(rng.integers(min(0, crop - scaled), max(0, crop - scaled) + 1))
        self.offset = max(0, position)
        self.length = min(crop, scaled)
        first = max(0, -position)
        self.start = first * source / scaled
        self.stop = (first + self.length) * source / scaled


def _recolour(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < GREYSCALE_SHARE:
        return picture.convert("L").convert("RGB")
    enhancers = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for index in rng.permutation(len(enhancers)):
        amount = rng.uniform(1 - COLOUR_JITTER, 1 + COLOUR_JITTER)
        picture = enhancers[index](picture).enhance(amount)
    return picture


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (N, H, W, 3) uint8 RGB to the network's input, (N, 3, H, W) float32, channels last.

    RGB / 255, then minus `mean` and divided by `std`, each per channel.
    """
    scaled = images.permute(0, 3, 1, 2).float().div_(255)
    per_channel = (1, 3, 1, 1)
    scaled.sub_(torch.tensor(mean, device=images.device).view(per_channel))
    return scaled.div_(torch.tensor(std, device=images.device).view(per_channel))
