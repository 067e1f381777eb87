"""The network's last step, exact and small: coarse logits to a mask, at any output size.

A transposed convolution of kernel 64, stride 32 and padding 16 makes each pixel of the four coarse
cells around it. So the picture falls into tiles of 32 x 32 pixels that share their cells, and the
pixels of all tiles are one product: (tiles, 4 C) x (4 C, C * 1024). Tiles go through in blocks, so
the full logits, 0.94 GiB for a 12-megapixel photo, never exist. Knows nothing of the backbone.

The argmax is written as `max(dim).indices`: the same index, and on the CPU 18 times faster.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from model.engines.base import Region

TILE = 32

# Tiles whose scores are held at once, 84 KiB each. On the CPU a block should stay in the cache; on
# a GPU it should fill the processors.
TILES_PER_BLOCK_CPU = 32
TILES_PER_BLOCK_CUDA = 4096

# Of a scaled mask, the columns that are computed in one sweep; wider ones take several.
COLUMNS_AT_ONCE = 16384


class Head:
    """`transpose_conv` and argmax, from its kernel (C, C, 64, 64) and bias (C,)."""

    def __init__(self, kernel: Tensor, bias: Tensor) -> None:
        classes = kernel.shape[0]
        assert kernel.shape == (classes, classes, 2 * TILE, 2 * TILE), kernel.shape
        # Pixel dy of a tile lies at kernel row 32 + dy of the upper cell and dy of the lower one.
        halves = kernel.view(classes, classes, 2, TILE, 2, TILE).flip(2, 4)
        corners_first = halves.permute(2, 4, 0, 1, 3, 5)
        self.classes = classes
        self.matrix = corners_first.reshape(4 * classes, classes * TILE * TILE).contiguous()
        self.bias = bias.repeat_interleave(TILE * TILE)
        on_cpu = kernel.device.type == "cpu"
        self.tiles_per_block = TILES_PER_BLOCK_CPU if on_cpu else TILES_PER_BLOCK_CUDA

    def __call__(self, coarse: Tensor, region: Region) -> Tensor:
        """Coarse logits (C, h, w) of one canvas to its mask, uint8 of shape `region.output`."""
        if region.content == region.output:
            return self._mask(coarse, region)
        return self._scaled_mask(coarse, region)

    def _mask(self, coarse: Tensor, region: Region) -> Tensor:
        height, width = region.output
        # The first tile begins half a tile above and left of the picture.
        blocks = []
        for scores in self._blocks(coarse):
            rows, columns = scores.shape[:2]
            labels = scores.max(dim=2).indices.to(torch.uint8)
            blocks.append(labels.transpose(1, 2).reshape(rows * TILE, columns * TILE))
        half = TILE // 2
        return torch.cat(blocks)[half : half + height, half : half + width]

    def _scaled_mask(self, coarse: Tensor, region: Region) -> Tensor:
        mask = torch.empty(region.output, dtype=torch.uint8, device=coarse.device)
        columns = _Neighbours(region.content[1], region.output[1], coarse.device)
        for start in range(0, region.output[1], COLUMNS_AT_ONCE):
            window = slice(start, start + COLUMNS_AT_ONCE)
            self._fill(mask[:, window], coarse, region.content, columns.cut(window))
        return mask

    def _fill(
        self, mask: Tensor, coarse: Tensor, content: tuple[int, int], columns: "_Neighbours"
    ) -> None:
        """Sweep down over the canvas; write each output row once both of its source rows exist."""
        height, width = mask.shape
        rows = _Neighbours(content[0], height, coarse.device)
        half = TILE // 2
        done = 0
        kept = torch.empty(self.classes, 0, width, device=coarse.device)
        kept_from = 0  # the canvas row of kept[:, 0]
        canvas_row = -half
        for scores in self._blocks(coarse):
            tile_rows, tile_columns = scores.shape[:2]
            logits = scores.permute(2, 0, 3, 1, 4).reshape(
                self.classes, tile_rows * TILE, tile_columns * TILE
            )
            logits = logits[:, max(0, -canvas_row) : content[0] - canvas_row, half:]
            blended = torch.lerp(
                logits[..., columns.first], logits[..., columns.second], columns.share
            )
            kept = torch.cat([kept, blended], dim=1)
            canvas_row += tile_rows * TILE
            ready = int(torch.searchsorted(rows.second, kept_from + kept.shape[1]))
            for start in range(done, ready, TILE):
                part = rows.cut(slice(start, min(start + TILE, ready)))
                above, below = kept[:, part.first - kept_from], kept[:, part.second - kept_from]
                scaled = torch.lerp(above, below, part.share[:, None])
                mask[start : start + TILE][: len(part.share)] = scaled.max(dim=0).indices
            done = ready
            if done == height:
                break
            kept = kept[:, int(rows.first[done]) - kept_from :]
            kept_from = int(rows.first[done])

    def _blocks(self, coarse: Tensor) -> Iterator[Tensor]:
        """Scores of some rows of tiles after another: (rows, columns, C, 32, 32)."""
        framed = torch.nn.functional.pad(coarse, (1, 1, 1, 1))
        corners = [framed[:, :-1, :-1], framed[:, :-1, 1:], framed[:, 1:, :-1], framed[:, 1:, 1:]]
        cells = torch.cat(corners).permute(1, 2, 0)  # (rows, columns, 4 C)
        rows, columns = cells.shape[:2]
        step = max(1, self.tiles_per_block // columns)
        for start in range(0, rows, step):
            block = cells[start : start + step].reshape(-1, 4 * self.classes)
            scores = torch.addmm(self.bias, block, self.matrix)
            yield scores.view(-1, columns, self.classes, TILE, TILE)


class _Neighbours:
    """For each output pixel along one side: its two source pixels, and the share of the second.

    Half-pixel centres, as in `F.interpolate(mode="bilinear", align_corners=False)`.
    """

    def __init__(self, source: int, output: int, device: torch.device) -> None:
        pixels = torch.arange(output, device=device, dtype=torch.float64)
        positions = ((pixels + 0.5) * source / output - 0.5).clamp_(min=0)
        self.first = positions.long().clamp_(max=source - 1)
        self.second = (self.first + 1).clamp_(max=source - 1)
        self.share = (positions - self.first).float()

    def cut(self, window: slice) -> "_Neighbours":
        part = copy.copy(self)
        part.first, part.second = self.first[window], self.second[window]
        part.share = self.share[window]
        return part
