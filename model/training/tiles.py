"""The last step of the network tile by tile, for the loss on the CPU, with gradients.

The geometry is that of `model.engines.tiles`: a tile, as wide and high as the network's stride,
depends on the four coarse cells around it. Knows nothing of losses.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.network import bilinear_kernel


def build_upsampling_matrix(kernel: Tensor) -> Tensor:
    """Turn the transposed convolution into a trainable product over tiles (see `engines.tiles`).

    Kernel (C, C, 2 side, 2 side) to (4 C, C * side * side). Differs from
    `engines.tiles.build_tile_matrix` in that its rows have the channel first and its four cells
    within, and in that gradients pass.
    """
    classes, side = kernel.shape[0], kernel.shape[-1] // 2
    # Pixel dy of a tile lies at kernel row side + dy of the upper cell and dy of the lower one.
    halves = kernel.reshape(classes, -1, 2, side, 2, side).flip(2, 4)
    return halves.permute(0, 2, 4, 1, 3, 5).reshape(4 * classes, -1)


def build_bilinear_matrix(side: int) -> Tensor:
    """Build the bilinear shares of a tile's four cells in its pixels, (4, side * side)."""
    return build_upsampling_matrix(bilinear_kernel(1, 1, 2 * side))


def gather_cells(coarse: Tensor) -> Tensor:
    """Return the four cells around each tile of coarse logits (N, C, h, w): (N, tiles, C, 4).

    There are (h + 1) * (w + 1) tiles; around the coarse logits lies a frame of zeros.
    """
    framed = F.pad(coarse.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    upper, lower = framed[:, :-1], framed[:, 1:]
    corners = [upper[:, :, :-1], upper[:, :, 1:], lower[:, :, :-1], lower[:, :, 1:]]
    return torch.stack(corners, dim=-1).flatten(1, 2)


def cut_tiles(target: Tensor, side: int, *, outside: int) -> Tensor:
    """Cut a target (N, side h, side w) into the tiles of `gather_cells`, (N, tiles, side * side).

    Half of each tile at the border is outside the picture.
    """
    half = side // 2
    framed = F.pad(target, (half, half, half, half), value=outside)
    number, height, width = framed.shape
    rows = framed.view(number, height // side, side, width // side, side)
    return rows.transpose(2, 3).reshape(number, -1, side * side)
