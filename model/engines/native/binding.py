"""The functions and structures of native/engine.h for Python.

Knows nothing of threads or of callers.
"""

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import c_int, c_int32, c_void_p
from dataclasses import dataclass

import numpy as np

from model.architectures import BACKBONE_STRIDE
from model.engines import tiles
from model.engines.base import Array, Region
from model.engines.folding import Convolution, Floats, FoldedNetwork


class NetworkStruct(ctypes.Structure):
    """`struct network`."""

    _fields_ = [
        ("convolutions", c_void_p),
        ("doublings", c_void_p),
        ("levels", c_void_p),
        ("head_kernel", c_void_p),
        ("head_bias", c_void_p),
        ("classes", c_int32),
        ("skips", c_int32),
    ]


@dataclass(frozen=True, slots=True)
class Described:
    """A structure, and the arrays that it points to, which must live as long as it does."""

    struct: NetworkStruct
    arrays: tuple[Floats, ...]
    pointers: tuple[ctypes.Array[c_void_p], ...]


def describe_network(network: FoldedNetwork, levels: Floats) -> Described:
    """Return the network, with its normalised `levels` (3, 256), for `engine_start`."""
    convolutions = [
        np.ascontiguousarray(array)
        for convolution in _list_convolutions(network)
        for array in (convolution.kernel, convolution.bias)
    ]
    doublings = [np.ascontiguousarray(skip.doubling) for skip in network.skips]
    has_kernel = not network.skips and not tiles.is_bilinear(network.upsampling_kernel)
    kernels = [_reorder_kernel(network)] if has_kernel else []
    pointers = (pass_arrays(convolutions), pass_arrays(doublings))
    struct = NetworkStruct(
        convolutions=ctypes.addressof(pointers[0]),
        doublings=ctypes.addressof(pointers[1]),
        levels=pass_array(levels),
        head_kernel=pass_array(kernels[0]) if kernels else None,
        head_bias=pass_array(network.upsampling_bias),
        classes=len(network.upsampling_bias),
        skips=len(network.skips),
    )
    arrays = (*convolutions, *doublings, *kernels, levels, network.upsampling_bias)
    return Described(struct, arrays, pointers)


def declare(native: ctypes.CDLL) -> ctypes.CDLL:
    """Set the types of the functions of native/engine.h."""
    pointer = c_void_p
    native.engine_start.argtypes = [pointer, c_int, c_int]
    native.engine_start.restype = pointer
    native.engine_stop.argtypes = [pointer]
    native.engine_stop.restype = None
    native.engine_segment.argtypes = [pointer, pointer, c_int, c_int, pointer, c_int, pointer]
    native.engine_segment_single_threaded.argtypes = [
        pointer, c_int, pointer, c_int, c_int, pointer, c_int, pointer,
    ]  # fmt: skip
    native.engine_coarse_logits.argtypes = [pointer, pointer, c_int, c_int, pointer]
    native.engine_coarse_logits_single_threaded.argtypes = [
        pointer, c_int, pointer, c_int, c_int, pointer,
    ]  # fmt: skip
    native.engine_head.argtypes = [pointer, pointer, c_int, c_int, pointer, c_int, pointer]
    return native


def _list_convolutions(network: FoldedNetwork) -> Iterator[Convolution]:
    """Yield the convolutions in the order that `engine_start` expects."""
    yield network.stem
    for block in network.blocks:
        yield block.first
        yield block.second
        if block.shortcut is not None:
            yield block.shortcut
    yield network.classifier
    for skip in network.skips:
        yield skip.classifier


def _reorder_kernel(network: FoldedNetwork) -> Floats:
    """Return the tile matrix in the order of `head_pack`, by a tile's rows: (32, C, 4 C, 32)."""
    classes, side = len(network.upsampling_bias), network.stride
    matrix = tiles.build_tile_matrix(network.upsampling_kernel)
    return np.ascontiguousarray(
        matrix.reshape(4 * classes, classes, side, side).transpose(2, 1, 0, 3)
    )


def pass_canvas(canvas: Array) -> tuple[c_void_p, int, int]:
    """Return the address and size of a canvas. The pointer keeps the array alive."""
    height, width, _ = canvas.shape
    assert canvas.dtype == np.uint8, canvas.dtype
    assert canvas.shape == (height, width, 3), canvas.shape
    assert height % BACKBONE_STRIDE == 0, height
    assert width % BACKBONE_STRIDE == 0, width
    return np.ascontiguousarray(canvas).ctypes.data_as(c_void_p), height, width


def pass_region(region: Region) -> c_void_p:
    """Return the address of a `struct region`."""
    return np.array((*region.content, *region.output), np.int32).ctypes.data_as(c_void_p)


def pass_array(array: np.ndarray) -> int:
    return array.ctypes.data


def pass_arrays(arrays: Sequence[Floats]) -> ctypes.Array[c_void_p]:
    return (c_void_p * len(arrays))(*map(pass_array, arrays))


def check(status: int) -> None:
    if status != 0:
        raise MemoryError("not enough memory for a canvas of this size")
