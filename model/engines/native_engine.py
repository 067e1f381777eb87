"""The native engine, for CPUs: our own C, in native/. Knows nothing of files or of HTTP.

In float32, with Winograd's convolutions, or in bfloat16 on processors with AMX; behind either the
exact head. A lone canvas is shared by all threads. Of several callers each computes on its own
thread: that takes less time in all, for nobody waits for the others at the end of each layer.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_int, c_void_p
from pathlib import Path

import numpy as np

from model.engines import folding, tiles
from model.engines.base import Array, Precision, Region, usable_cores
from model.engines.folding import Convolution, Floats, FoldedNetwork
from model.engines.native import library
from model.engines.tiles import TILE
from model.errors import EngineError
from model.weights import Weights


class NativeEngine:
    """See `Engine`; the C side is native/engine.h."""

    device = "cpu"
    images_per_call = 1

    def __init__(
        self,
        weights: Weights,
        path: Path,
        *,
        threads: int = 0,
        precision: Precision = "float32",
    ) -> None:
        """`path`: the library; `threads`: 0 takes one per core.

        Raises WeightsError for tensors that do not fit, EngineError for a library that does not
        load, MemoryError.
        """
        network = folding.fold(weights)
        self._classes = len(network.upsampling_bias)
        self._library = declared(library.load(path))
        if precision == "bfloat16" and not self._library.engine_has_bfloat16():
            raise EngineError("precision 'bfloat16' needs a processor with AMX: choose float32")
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
            precision == "bfloat16",
        )
        if not self._engine:
            raise MemoryError("no memory, or no threads, for the native engine")
        weakref.finalize(self, _stop, self._library, self._engine, os.getpid())
        kind = path.stem.partition("-")[2]
        exact = "" if precision == "float32" else f" in {precision}"
        self.description = f"native {kind}{exact} on cpu, {threads} threads"
        # One more than threads: while Python hands a mask on, no core shall wait.
        self.callers_at_once = threads + 1
        self._turns = _Turns(self.callers_at_once)

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """See `Engine.segment`. Raises MemoryError."""
        return [self._segment(*pair) for pair in zip(canvases, regions, strict=True)]

    def _segment(self, canvas: Array, region: Region) -> Array:
        mask = np.empty(region.output, np.uint8)
        rest = (*_picture(canvas), _region(region), _address(mask))
        with self._turns.turn() as lane:
            if lane is None:
                _check(self._library.engine_segment(self._engine, *rest))
            else:
                _check(self._library.engine_segment_alone(self._engine, lane, *rest))
        return mask

    def coarse_logits(self, canvas: Array) -> Floats:
        """A canvas (H, W, 3) to the logits of every 32nd pixel, (C, H / 32, W / 32)."""
        height, width, _ = canvas.shape
        logits = np.empty((self._classes, height // TILE, width // TILE), np.float32)
        rest = (*_picture(canvas), _address(logits))
        with self._turns.everything():
            _check(self._library.engine_coarse_logits(self._engine, *rest))
        return logits

    def head(self, coarse: Floats, region: Region) -> Array:
        """Coarse logits (C, h, w) of one canvas to its mask, uint8 of shape `region.output`."""
        coarse = np.ascontiguousarray(coarse, np.float32)
        _, height, width = coarse.shape
        mask = np.empty(region.output, np.uint8)
        rest = (_address(coarse), height, width, _region(region), _address(mask))
        with self._turns.everything():
            _check(self._library.engine_head(self._engine, *rest))
        return mask


def _stop(native: ctypes.CDLL, engine: int, pid: int) -> None:
    """Only where it was started: a forked process has no copy of its threads."""
    if os.getpid() == pid:
        native.engine_stop(engine)


class _Turns:
    """Who may compute: one caller with all threads, or several, each in a lane of its own."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._free = list(range(lanes))
        self._callers = 0
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[int | None]:
        """A lane's number, None for all threads: what a caller gets who comes alone."""
        with self._changed:
            self._callers += 1
            self._changed.wait_for(lambda: self._free)
            alone = self._callers == 1
            lanes = [self._free.pop() for _ in range(self._lanes if alone else 1)]
        try:
            yield None if alone else lanes[0]
        finally:
            with self._changed:
                self._callers -= 1
                self._free += lanes
                self._changed.notify_all()

    @contextmanager
    def everything(self) -> Iterator[None]:
        """All threads, when they are free."""
        with self._changed:
            self._callers += 1
            self._changed.wait_for(lambda: len(self._free) == self._lanes)
            self._free.clear()
        try:
            yield
        finally:
            with self._changed:
                self._callers -= 1
                self._free += range(self._lanes)
                self._changed.notify_all()


def declared(native: ctypes.CDLL) -> ctypes.CDLL:
    """The functions of native/engine.h with their types."""
    pointer = c_void_p
    native.engine_start.argtypes = [pointer, pointer, pointer, pointer, c_int, c_int, c_int]
    native.engine_start.restype = pointer
    native.engine_stop.argtypes = [pointer]
    native.engine_stop.restype = None
    native.engine_segment.argtypes = [pointer, pointer, c_int, c_int, pointer, pointer]
    native.engine_segment_alone.argtypes = [
        pointer, c_int, pointer, c_int, c_int, pointer, pointer,
    ]  # fmt: skip
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


def _picture(canvas: Array) -> tuple[c_void_p, int, int]:
    """Address and size; the array must live as long as the call."""
    height, width, _ = canvas.shape
    assert canvas.dtype == np.uint8, canvas.dtype
    assert canvas.shape == (height, width, 3), canvas.shape
    assert height % TILE == 0, height
    assert width % TILE == 0, width
    return np.ascontiguousarray(canvas).ctypes.data_as(c_void_p), height, width


def _region(region: Region) -> c_void_p:
    """A `struct region`."""
    return np.array((*region.content, *region.output), np.int32).ctypes.data_as(c_void_p)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _check(status: int) -> None:
    if status != 0:
        raise MemoryError("no memory for a canvas of this size")
