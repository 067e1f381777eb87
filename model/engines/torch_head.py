"""Turns coarse logits into a mask or its confidence with PyTorch, at any output size (see `tiles`).

The argmax is `max(dim).indices`, which gives the same index and is 18 times faster on the CPU.
Knows nothing of the backbone.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from model.engines import tiles
from model.engines.base import Region, Size
from model.engines.folding import FoldedNetwork
from model.engines.tiles import Neighbours

PIXELS_PER_BLOCK_CUDA = 2**22
"""The pixels whose logits are held at once on a GPU, so that they fill its processors."""

# At least this many rows of a scaled mask are computed at once.
ROWS_AT_ONCE = 32


Reduce = Callable[[Tensor, int], Tensor]
"""Logits and the dimension of their classes to one number for each pixel."""


class TorchHead:
    """`transpose_conv` of a network, and argmax or softmax."""

    def __init__(self, network: FoldedNetwork, device: torch.device) -> None:
        bias = torch.from_numpy(network.upsampling_bias).to(device)
        self._classes, self._side = len(bias), network.stride
        self._bias = bias.repeat_interleave(self._side * self._side)
        self._matrix = torch.from_numpy(tiles.build_tile_matrix(network.upsampling_kernel)).to(
            device
        )
        self._pixels_per_block = (
            tiles.PIXELS_PER_BLOCK if device.type == "cpu" else PIXELS_PER_BLOCK_CUDA
        )

    def __call__(self, coarse: Tensor, region: Region) -> Tensor:
        """Turn the coarse logits (C, h, w) of a canvas into its mask, of shape `region.output`."""
        return self._reduce(coarse, region, argmax)

    def measure_confidence(self, coarse: Tensor, region: Region) -> Tensor:
        """Turn coarse logits (C, h, w) into the confidence, uint8 of shape `region.output`."""
        return self._reduce(coarse, region, measure_softmax)

    def segment_canvases(self, coarse: Tensor, masks: Tensor, *, confidence: bool = False) -> None:
        """Fill masks (N, H, W) of whole canvases from coarse logits (N, C, h, w)."""
        height, width = masks.shape[1:]
        region = Region((height, width), (height, width))
        for logits, mask in zip(coarse, masks, strict=True):
            self.segment_scaled(logits, region, mask, confidence=confidence)

    def segment_scaled(
        self, coarse: Tensor, region: Region, mask: Tensor, *, confidence: bool = False
    ) -> None:
        """Fill a mask of shape `region.output` from the coarse logits (C, h, w) of one canvas."""
        mask.copy_(self._reduce(coarse, region, measure_softmax if confidence else argmax))

    def _reduce(self, coarse: Tensor, region: Region, reduce: Reduce) -> Tensor:
        height, width = region.output
        half = self._side // 2
        if region.content == region.output:
            blocks = [_join_tiles(reduce(scores, 2)) for scores in self._iterate_blocks(coarse)]
            mask = torch.cat([block.to(torch.uint8) for block in blocks])
            return mask[half : half + height, half : half + width]
        mask = torch.empty(region.output, dtype=torch.uint8, device=coarse.device)
        columns = Neighbours.between(region.content[1], width)
        for start in range(0, width, tiles.COLUMNS_AT_ONCE):
            stop = min(start + tiles.COLUMNS_AT_ONCE, width)
            part = columns.cut(start, stop)
            self._fill(mask[:, start:stop], coarse, region.content, part, reduce)
        return mask

    def _fill(
        self, mask: Tensor, coarse: Tensor, content: Size, columns: Neighbours, reduce: Reduce
    ) -> None:
        """Sweep down over the canvas; write each output row once both of its source rows exist."""
        height, width = mask.shape
        device, half = coarse.device, self._side // 2
        rows = Neighbours.between(content[0], height)
        rows_at_once = max(ROWS_AT_ONCE, tiles.PIXELS_AT_ONCE // width)
        left, right, share = (
            torch.from_numpy(part).to(device)
            for part in (columns.first, columns.second, columns.share)
        )
        done = 0
        kept = torch.empty(self._classes, 0, width, device=device)
        kept_from = 0  # the canvas row of kept[:, 0]
        canvas_row = -half
        for scores in self._iterate_blocks(coarse):
            logits = _join_tiles(scores.transpose(1, 2).transpose(0, 1))
            logits = logits[:, max(0, -canvas_row) : content[0] - canvas_row, half:]
            blended = torch.lerp(logits[..., left], logits[..., right], share)
            kept = torch.cat([kept, blended], dim=1)
            canvas_row += len(scores) * self._side
            ready = int(rows.second.searchsorted(kept_from + kept.shape[1]))
            for start in range(done, ready, rows_at_once):
                part = rows.cut(start, min(start + rows_at_once, ready))
                upper, lower, down = (
                    torch.from_numpy(values).to(device)
                    for values in (part.first - kept_from, part.second - kept_from, part.share)
                )
                scaled = torch.lerp(kept[:, upper], kept[:, lower], down[:, None])
                mask[start : start + len(down)] = reduce(scaled, 0)
            done = ready
            if done == height:
                break
            kept = kept[:, int(rows.first[done]) - kept_from :]
            kept_from = int(rows.first[done])

    def _iterate_blocks(self, coarse: Tensor) -> Iterator[Tensor]:
        """Yield the scores of a few rows of tiles at a time: (rows, columns, C, side, side)."""
        side = self._side
        framed = F.pad(coarse, (1, 1, 1, 1))
        corners = [framed[:, :-1, :-1], framed[:, :-1, 1:], framed[:, 1:, :-1], framed[:, 1:, 1:]]
        cells = torch.cat(corners).permute(1, 2, 0)  # (rows, columns, 4 C)
        columns = cells.shape[1]
        step = max(1, self._pixels_per_block // (columns * side * side))
        for start in range(0, len(cells), step):
            block = cells[start : start + step].reshape(-1, 4 * self._classes)
            scores = torch.addmm(self._bias, block, self._matrix)
            yield scores.view(-1, columns, self._classes, side, side)


def argmax(scores: Tensor, dim: int) -> Tensor:
    """The index of the largest value along `dim`."""
    return scores.max(dim=dim).indices


def measure_softmax(scores: Tensor, dim: int) -> Tensor:
    """The softmax of the largest value along `dim`, times 255 and rounded."""
    return scores.softmax(dim).amax(dim).mul_(255).round_()


def _join_tiles(tiled: Tensor) -> Tensor:
    """Tiles (..., rows, columns, n, n) as one picture, (..., rows * n, columns * n)."""
    *leading, rows, columns, side, _ = tiled.shape
    return tiled.transpose(-3, -2).reshape(*leading, rows * side, columns * side)
