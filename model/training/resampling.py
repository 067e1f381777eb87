"""Pillow's scaling and recolouring of many images at once, in PyTorch.

Scaling is a product with the shares of the pixels: triangles as wide as the reduction, rounded
after the columns and after the rows. Knows nothing of where the images are from.
"""

import torch
from torch import Tensor

from model.training.drawn_views import SideTable
from model.training.transforms import BRIGHTNESS, CONTRAST

LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)
"""The shares of red, green and blue in Pillow's mode L: float32 has all these products exactly."""


def count_places(number: int, device: torch.device) -> Tensor:
    """Return 0, 1, 2 ... in float64, in which places have no rounding error."""
    return torch.arange(number, device=device, dtype=torch.float64)


def find_middles(
    side: SideTable, number: int, *, step: int = 1, flips: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find what lies under the middles of the crop's pixels, or of its cells of `step` pixels.

    Returns positions in pixels of the source, and whether it is visible there: (N, number).
    """
    middles = (count_places(number, side.offset.device) + 0.5) * step - side.offset
    visible = (middles >= 0) & (middles < side.length)
    if flips is not None:
        middles = torch.where(flips, side.length - middles, middles)
    return side.start + middles * (side.stop - side.start) / side.length, visible


def weigh_pixels(side: SideTable, middles: Tensor, number: int) -> Tensor:
    """Return the share of each pixel of the source from `side.first` on: (N, len(middles), number).

    A triangle around the middle, twice as wide as a pixel of the crop or of the source.
    """
    reach = ((side.stop - side.start) / side.length).clamp(min=1).float()
    pixels = torch.arange(number, device=middles.device)
    distance = (middles - side.first - 0.5).float()[:, :, None] - pixels
    shares = (1 - distance.abs_() / reach[:, :, None]).clamp_(min=0)
    shares *= (pixels < side.source - side.first)[:, None]
    return shares.div_(shares.sum(dim=2, keepdim=True).clamp_(min=1e-6))


def weigh_cells(
    middles: Tensor, visible: Tensor, cells: Tensor, number: int, *, cell: int
) -> Tensor:
    """Return the share of each cell of the source: (N, len(middles), number); none where invisible.

    `cells` (N, 1) is how many each image has along this side.
    """
    position = (middles / cell - 0.5).clamp(min=0).minimum(cells - 1).float()
    distance = position[:, :, None] - torch.arange(number, device=middles.device)
    return (1 - distance.abs_()).clamp_(min=0).mul_(visible[:, :, None])


def resize(windows: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Scale windows (N, h, w, 3) uint8 by the shares of their pixels: (N, H, 3, W) float32.

    The values are integers. `rows` is (N, H, h), `columns` (N, W, w).
    """
    number, high, wide, channels = windows.shape
    planes = windows.permute(0, 1, 3, 2).reshape(number, high * channels, wide).float()
    narrow = (planes @ columns.mT).add_(0.5).floor_().view(number, high, -1)
    scaled = (rows @ narrow).add_(0.5).floor_()
    return scaled.view(number, rows.shape[1], channels, -1)


def interpolate(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Interpolate maps (N, h, w, C) at (N, H, W, C): `rows` (N, H, h), `columns` (N, W, w)."""
    number, high, wide, channels = maps.shape
    tall = (rows @ maps.view(number, high, -1)).view(number, -1, wide, channels)
    turned = tall.transpose(1, 2).reshape(number, wide, -1)
    return (columns @ turned).view(number, columns.shape[1], -1, channels).transpose(1, 2)


def recolour(images: Tensor, visible: Tensor, kinds: Tensor, amounts: Tensor) -> Tensor:
    """Recolour images (N, H, 3, W) with integer values, each in its own way.

    `kinds` and `amounts` are (N, steps); an amount of 1 changes nothing. The mean for the contrast
    is that of the `visible` pixels, (N, H, W).
    """
    seen = visible.sum(dim=(1, 2))
    for kind, amount in zip(kinds.T, amounts.float().T, strict=True):
        kind, amount = kind[:, None, None], amount[:, None, None, None]
        grey = to_grey(images)
        mean = ((grey * visible).sum(dim=(1, 2), dtype=torch.float64) / seen + 0.5).floor()
        base = torch.where(kind == CONTRAST, mean.float()[:, None, None], grey)
        base = torch.where(kind == BRIGHTNESS, 0.0, base)[:, :, None]
        images = (base + amount * (images - base)).clamp_(0, 255).floor_()
    return images


def to_grey(images: Tensor) -> Tensor:
    """Return the grey levels of images (N, H, 3, W) with integer values, as Pillow rounds them."""
    red, green, blue = (images[:, :, channel] * share for channel, share in enumerate(LUMA))
    return (red + green + blue + 0.5).floor_()
