"""Turns coarse logits into masks or confidences with Triton, one kernel for each call.

It runs on GPUs, and for tests in Triton's interpreter on the CPU. Knows nothing of the backbone.
"""

import numpy as np
import torch
import triton
from torch import Tensor

from model.engines import tiles, triton_kernels
from model.engines.base import Region
from model.engines.folding import Floats, FoldedNetwork
from model.errors import EngineError

MAX_CLASSES = 64
"""The packed kernel grows with the square of the classes: 67 MB of float32 for 64."""

MIN_PADDED = 16
"""A product on tensor cores has at least 16 rows and columns."""

TILES = 64
TARGETS = 128
"""The size of a dense product: tiles, and pixels of a tile times padded classes."""

PIXELS = 128
"""The pixels that a program of the bilinear kernel computes."""

WINDOW = (8, 16)
BLOCK = 8
"""The sizes for a scaled mask: the window of canvas pixels whose logits a program holds, and the
side of the blocks of output pixels that it computes from them.
"""

WARPS = 8
"""The warps of a program. With these sizes and 8 warps, the compiler keeps everything in registers
(`ptxas` for sm_90).
"""


class TritonHead:
    """`transpose_conv` of a network, and argmax or softmax."""

    def __init__(
        self, network: FoldedNetwork, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        """`dtype` is that of a dense kernel's products. Sums are float32. Raises EngineError."""
        self._classes, self._side = len(network.upsampling_bias), network.stride
        if self._classes > MAX_CLASSES:
            raise EngineError(f"{self._classes} classes, the Triton head has {MAX_CLASSES} at most")
        self._padded = max(MIN_PADDED, triton.next_power_of_2(self._classes))
        self._is_bilinear = tiles.is_bilinear(network.upsampling_kernel)
        bias = np.pad(network.upsampling_bias, (0, self._padded - self._classes))
        self._bias = torch.from_numpy(bias).to(device)
        self._packed = self._bias  # never read
        if not self._is_bilinear:
            self._packed = torch.from_numpy(self._pack(network)).to(device, dtype)

    def try_out(self) -> None:
        """Compile and run each kernel, so that none is compiled later. Raises Triton's errors."""
        device = self._bias.device
        coarse = torch.zeros(1, self._classes, 1, 1, device=device)
        masks = torch.empty(1, self._side, self._side, dtype=torch.uint8, device=device)
        region = Region((1, 1), (self._side, self._side))
        with torch.cuda.device(device):
            for confidence in (False, True):
                self.segment_canvases(coarse, masks, confidence=confidence)
                self.segment_scaled(coarse[0], region, masks[0], confidence=confidence)
            # Not the whole device: another engine may be recording a graph.
            torch.cuda.current_stream().synchronize()

    def _pack(self, network: FoldedNetwork) -> Floats:
        """Pack the tile matrix as (side * side, 4, padded, padded): (C, C) per pixel and corner."""
        classes, side, padded = self._classes, self._side, self._padded
        matrix = tiles.build_tile_matrix(network.upsampling_kernel)
        packed = np.zeros((side * side, 4, padded, padded), np.float32)
        packed[:, :, :classes, :classes] = matrix.reshape(
            4, classes, classes, side * side
        ).transpose(3, 0, 1, 2)
        return packed

    def segment_canvases(self, coarse: Tensor, masks: Tensor, *, confidence: bool = False) -> None:
        """Fill masks (N, H, W) of whole canvases from coarse logits (N, C, h, w)."""
        images, _, rows, columns = coarse.shape
        last = coarse.permute(0, 2, 3, 1).contiguous()  # nothing to do for channels-last logits
        constants = (self._side, self._classes, self._padded)
        if self._is_bilinear:
            runs = triton.cdiv(masks[0].numel(), PIXELS)
            triton_kernels.segment_bilinear[runs, images](
                last, self._bias, masks, rows, columns, *constants, PIXELS, confidence,
                num_warps=WARPS,
            )  # fmt: skip
            return
        pixels = min(self._side, TARGETS // self._padded)
        tiles_at_all = images * (rows + 1) * (columns + 1)
        grid = triton.cdiv(tiles_at_all, TILES), self._side, self._side // pixels
        triton_kernels.segment_dense[grid](
            last, self._packed, self._bias, masks, images, rows, columns,
            *constants, TILES, pixels, confidence, num_warps=WARPS,
        )  # fmt: skip

    def segment_scaled(
        self, coarse: Tensor, region: Region, mask: Tensor, *, confidence: bool = False
    ) -> None:
        """Fill a mask of shape `region.output` from the coarse logits (C, h, w) of one canvas."""
        _, rows, columns = coarse.shape
        down, right = (
            triton.cdiv(content, side - 1)
            for content, side in zip(region.content, WINDOW, strict=True)
        )
        triton_kernels.segment_scaled[down, right](
            coarse.permute(1, 2, 0).contiguous(), self._packed, self._bias, mask, rows, columns,
            *region.content, *region.output,
            self._side, self._classes, self._padded, *WINDOW, BLOCK, confidence, self._is_bilinear,
            num_warps=WARPS,
        )  # fmt: skip
