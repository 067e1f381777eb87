"""Views of many images at once, in PyTorch: each image has its own window and its own colours.

The arithmetic is that of `transforms`, which makes one view after the other. The images lie in one
buffer (see `Layout`). Knows nothing of who fills it.
"""

import torch
from torch import Tensor

from model.classes import IGNORE_INDEX
from model.engines.base import Size
from model.training.drawn_views import ViewTable
from model.training.resampling import (
    count_places,
    find_middles,
    interpolate,
    recolour,
    resize,
    weigh_cells,
    weigh_pixels,
)
from model.training.soft_labels import CELL
from model.training.transfer import send


class BatchViews:
    """What `View` is to one image. Buffers are (pixels or cells of all images, ...), uint8."""

    def __init__(self, rows: Tensor, *, crop: Size, device: torch.device) -> None:
        """`rows` are those of `DrawnViews`, (N, ROW), in the memory of the host."""
        drawn = ViewTable(rows)
        # Sizes that the device would have to be asked for.
        self._window = [int(side.number.max()) for side in drawn.sides]
        self._cells = [-(-int(side.source.max()) // CELL) for side in drawn.sides]
        self._crop = crop
        self._table = ViewTable(send(rows, device))
        self._flips = (None, self._table.is_flipped > 0)
        middles, visible = zip(*self._find_middles(1), strict=True)
        self._middles: tuple[Tensor, Tensor] = middles
        self._visible = visible[0][:, :, None] & visible[1][:, None]

    def cut_images(self, images: Tensor) -> Tensor:
        """Return the images (N, H, W, 3) as they are, for views that `draw_crop` drew."""
        return images[self._find_nearest()]

    def of_targets(self, targets: Tensor) -> Tensor:
        """Return the targets (N, H, W) uint8; void where there is no image."""
        return torch.where(self._visible, targets[self._find_nearest()], IGNORE_INDEX)

    def of_images(self, images: Tensor, *, fill: Tensor) -> Tensor:
        """Return the images (N, H, W, 3), scaled and recoloured; `fill` where there is no image."""
        table = self._table
        sides = list(zip(table.sides, self._middles, self._window, strict=True))
        places = [side.first + count_places(number, images.device) for side, _, number in sides]
        pixels = _locate(table.pixel_start, places, [side.source for side in table.sides])
        shares = [weigh_pixels(side, middles, number) for side, middles, number in sides]
        views = resize(images[pixels], shares[0], shares[1])
        views = recolour(views, self._visible, table.kinds, table.amounts)
        seen = views.permute(0, 1, 3, 2).to(torch.uint8)
        return torch.where(self._visible[..., None], seen, fill).contiguous()

    def of_cells(self, cells: Tensor) -> Tensor:
        """Return the crop's cells, (N, H / 8, W / 8, C) float32; 0 where there is no image."""
        table = self._table
        sides = [_count_cells(side.source) for side in table.sides]
        places = [count_places(number, cells.device)[None] for number in self._cells]
        maps = cells[_locate(table.cell_start, places, sides)].float()
        shares = [
            weigh_cells(middles, visible, side, number, cell=CELL)
            for (middles, visible), side, number in zip(
                self._find_middles(CELL), sides, self._cells, strict=True
            )
        ]
        return interpolate(maps, shares[0], shares[1]).contiguous()

    def _find_middles(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Call `find_middles` for the rows and for the columns."""
        sides = zip(self._table.sides, self._crop, self._flips, strict=True)
        return [find_middles(s, size // step, step=step, flips=flips) for s, size, flips in sides]

    def _find_nearest(self) -> Tensor:
        table = self._table
        places = [middles.floor() for middles in self._middles]
        return _locate(table.pixel_start, places, [side.source for side in table.sides])


def _count_cells(source: Tensor) -> Tensor:
    return (source / CELL).ceil()


def _locate(starts: Tensor, places: list[Tensor], sizes: list[Tensor]) -> Tensor:
    """Return each place's index in a buffer, (N, rows, columns); places outside are moved inside.

    `starts` and `sizes` are (N, 1), the places (N or 1, rows) and (N or 1, columns).
    """
    rows, columns = (
        place.clamp(min=0).minimum(size - 1).long()
        for place, size in zip(places, sizes, strict=True)
    )
    width = sizes[1].long()
    return (starts.long() + rows * width)[:, :, None] + columns[:, None]
