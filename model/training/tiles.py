"""The last step of the network tile by tile, for the loss on the CPU, with gradients.

The geometry is that of `model.engines.tiles`: a tile of 32 x 32 pixels depends on the four coarse
cells around it. Knows nothing of losses.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network import STRIDE, bilinear_kernel


def build_upsampling_matrix(kernel: Tensor) -> Tensor:
    """The transposed convolution as a product over tiles (see `engines.tiles`), to be trained.

    Kernel (C, C, 64, 64) to (4 C, C * 1024). Differs from `engines.tiles.build_tile_matrix` in that
    its rows have the channel first and its four cells within, and in that gradients pass.
    """
    classes = kernel.shape[0]
    # Pixel dy of a tile lies at kernel row 32 + dy of the upper cell and dy of the lower one.
    halves = kernel.reshape(classes, -1, 2, STRIDE, 2, STRIDE).flip(2, 4)
    return halves.permute(0, 2, 4, 1, 3, 5).reshape(4 * classes, -1)


def build_bilinear_matrix() -> Tensor:
    """The shares of a tile's four cells in its pixels, (4, 1024), for the bilinear kernel."""
    return build_upsampling_matrix(bilinear_kernel(1, 1, 2 * STRIDE))


def gather_cells(coarse: Tensor) -> Tensor:
    """The four cells around each tile of coarse logits (N, C, h, w): (N, tiles, C, 4).

    There are (h + 1) * (w + 1) tiles; around the coarse logits lies a frame of zeros.
    """
    framed = F.pad(coarse.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    upper, lower = framed[:, :-1], framed[:, 1:]
    corners = [upper[:, :, :-1], upper[:, :, 1:], lower[:, :, :-1], lower[:, :, 1:]]
    return torch.stack(corners, dim=-1).flatten(1, 2)


def cut_tiles(target: Tensor, *, outside: int) -> Tensor:
    """A target (N, 32 h, 32 w) in tiles, (N, tiles, 1024): the tiles of `gather_cells`.

    Tiles at the border are half outside of the picture.
    """
    half = STRIDE // 2
    framed = F.pad(target, (half, half, half, half), value=outside)
    number, height, width = framed.shape
    rows = framed.view(number, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    return rows.transpose(2, 3).reshape(number, -1, STRIDE * STRIDE)
