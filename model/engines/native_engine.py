"""The native engine, for CPUs: our own C, in native/. Knows nothing of files or of HTTP.

Float32 throughout: Winograd convolutions, the exact head, a team of threads that sleeps when idle.
Of a batch, as many canvases are computed at once as there are threads, each on one thread; a lone
canvas is shared by all of them.
"""

import ctypes
import weakref
from collections.abc import Iterator, Sequence
from ctypes import c_int, c_void_p
from pathlib import Path

import numpy as np

from model.engines import folding, tiles
from model.engines.base import Array, Region, usable_cores
from model.engines.folding import Convolution, Floats, FoldedNetwork
from model.engines.native import library
from model.engines.tiles import TILE
from model.weights import Weights


class NativeEngine:
    """See `Engine`; the C side is native/engine.h."""

    device = "cpu"

    def __init__(self, weights: Weights, path: Path, *, threads: int = 0) -> None:
        """`path`: the library; `threads`: 0 takes one per core.

        Raises WeightsError for tensors that do not fit, EngineError for a library that does not
        load, MemoryError.
        """
        network = folding.fold(weights)
        self._classes = len(network.upsampling_bias)
        self._library = _declared(library.load(path))
        threads = threads or usable_cores()
        convolutions = [
            np.ascontiguousarray(array)
            for convolution in _in_order(network)
            for array in (convolution.kernel, convolution.bias)
        ]
        levels = folding.normalised_levels(weights.metadata)
        kernel = None if tiles.is_bilinear(network.upsampling_kernel) else _rows(network)
        self._engine = self._library.engine_start(
            (c_void_p * len(convolutions))(*map(_address, convolutions)),
            _address(levels),
            kernel if kernel is None else _address(kernel),
            _address(network.upsampling_bias),
            self._classes,
            threads,
        )
        if not self._engine:
            raise MemoryError("no memory, or no threads, for the native engine")
        weakref.finalize(self, self._library.engine_stop, self._engine)
        kind = path.stem.partition("-")[2]
        self.description = f"native {kind} on cpu, {threads} threads"
        self.images_at_once = threads

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """See `Engine.segment`. Raises MemoryError."""
        pixels = [np.ascontiguousarray(canvas) for canvas in canvases]
        height, width, _ = pixels[0].shape
        assert all(canvas.shape == (height, width, 3) for canvas in pixels)
        masks = [np.empty(region.output, np.uint8) for region in regions]
        parts = np.array([(*region.content, *region.output) for region in regions], np.int32)
        status = self._library.engine_segment(
            self._engine,
            len(pixels),
            (c_void_p * len(pixels))(*map(_address, pixels)),
            height,
            width,
            _address(parts),
            (c_void_p * len(masks))(*map(_address, masks)),
        )
        _check(status)
        return masks

    def coarse_logits(self, canvas: Array) -> Floats:
        """A canvas (H, W, 3) to the logits of every 32nd pixel, (C, H / 32, W / 32)."""
        canvas = np.ascontiguousarray(canvas)
        height, width, _ = canvas.shape
        logits = np.empty((self._classes, height // TILE, width // TILE), np.float32)
        _check(
            self._library.engine_coarse_logits(
                self._engine, _address(canvas), height, width, _address(logits)
            )
        )
        return logits

    def head(self, coarse: Floats, region: Region) -> Array:
        """Coarse logits (C, h, w) of one canvas to its mask, uint8 of shape `region.output`."""
        coarse = np.ascontiguousarray(coarse, np.float32)
        mask = np.empty(region.output, np.uint8)
        part = np.array((*region.content, *region.output), np.int32)
        _check(
            self._library.engine_head(
                self._engine,
                _address(coarse),
                coarse.shape[1],
                coarse.shape[2],
                _address(part),
                _address(mask),
            )
        )
        return mask


def _declared(native: ctypes.CDLL) -> ctypes.CDLL:
    """The functions of native/engine.h with their types."""
    pointer = c_void_p
    native.engine_start.argtypes = [pointer, pointer, pointer, pointer, c_int, c_int]
    native.engine_start.restype = pointer
    native.engine_stop.argtypes = [pointer]
    native.engine_stop.restype = None
    native.engine_segment.argtypes = [pointer, c_int, pointer, c_int, c_int, pointer, pointer]
    native.engine_coarse_logits.argtypes = [pointer, pointer, c_int, c_int, pointer]
    native.engine_head.argtypes = [pointer, pointer, c_int, c_int, pointer, pointer]
    return native


def _in_order(network: FoldedNetwork) -> Iterator[Convolution]:
    """As `engine_start` takes them."""
    yield network.stem
    for block in network.blocks:
        yield block.first
        yield block.second
        if block.shortcut is not None:
            yield block.shortcut
    yield network.classifier


def _rows(network: FoldedNetwork) -> Floats:
    """The tile matrix as `head_pack` takes it, a tile's row after the other: (32, C, 4 C, 32)."""
    classes = len(network.upsampling_bias)
    matrix = tiles.tile_matrix(network.upsampling_kernel)
    return np.ascontiguousarray(
        matrix.reshape(4 * classes, classes, TILE, TILE).transpose(2, 1, 0, 3)
    )


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _check(status: int) -> None:
    if status != 0:
        raise MemoryError("no memory for a canvas of this size")
