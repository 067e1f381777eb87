"""The native engine, for CPUs: our own C, in native/. Knows nothing of files or of HTTP.

It computes in float32, with Winograd's convolutions, or in bfloat16 on processors with AMX; the
head is exact in both. A single caller uses all threads. Concurrent callers use one thread each,
which is faster in total: no thread waits for the others at the end of each layer.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from model.engines import folding, tiles
from model.engines.base import Array, Precision, Region, count_usable_cores, describe_threads
from model.engines.folding import Floats, FoldedNetwork
from model.engines.native import library
from model.engines.native.binding import (
    check,
    declare,
    describe_network,
    pass_array,
    pass_canvas,
    pass_region,
)
from model.engines.numpy_head import NumpyHead
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
        self._numpy_head = NumpyHead(network)
        self._classes, self._stride = len(network.upsampling_bias), network.stride
        # A trained kernel with skips is rare, so numpy computes it.
        self._has_native_head = not network.skips or tiles.is_bilinear(network.upsampling_kernel)
        self._library = declare(library.load(path))
        if precision == "bfloat16" and not self._library.engine_has_bfloat16():
            raise EngineError("precision 'bfloat16' needs a processor with AMX: choose float32")
        threads = threads or count_usable_cores()
        levels = folding.normalise_levels(weights.metadata)
        self._engine = self._start(network, levels, threads=threads, precision=precision)
        weakref.finalize(self, _stop, self._library, self._engine, os.getpid())
        kind = path.stem.partition("-")[2]
        exact = "" if precision == "float32" else f" in {precision}"
        self.description = f"native {kind}{exact} on cpu, {describe_threads(threads)}"
        # One more than the threads, so that no core waits while Python returns a mask.
        self.callers_at_once = threads + 1
        self._workspaces = _Workspaces(self.callers_at_once)

    def _start(
        self, network: FoldedNetwork, levels: Floats, *, threads: int, precision: Precision
    ) -> int:
        """Start the C engine, which copies the network. Returns its address. Raises MemoryError."""
        described = describe_network(network, levels)
        engine: int | None = self._library.engine_start(
            ctypes.byref(described.struct), threads, precision == "bfloat16"
        )
        if not engine:
            raise MemoryError("not enough memory or threads for the native engine")
        return engine

    def segment(self, canvases: Sequence[Array], regions: Sequence[Region]) -> list[Array]:
        """See `Engine.segment`. Raises MemoryError."""
        pairs = zip(canvases, regions, strict=True)
        return [self._segment(*pair, confidence=False) for pair in pairs]

    def measure_confidence(
        self, canvases: Sequence[Array], regions: Sequence[Region]
    ) -> list[Array]:
        """See `Engine.measure_confidence`. Raises MemoryError."""
        pairs = zip(canvases, regions, strict=True)
        return [self._segment(*pair, confidence=True) for pair in pairs]

    def _segment(self, canvas: Array, region: Region, *, confidence: bool) -> Array:
        if not self._has_native_head:
            return self.head(self.coarse_logits(canvas), region, confidence=confidence)
        mask = np.empty(region.output, np.uint8)
        rest = (*pass_canvas(canvas), pass_region(region), confidence, pass_array(mask))
        segment_single_threaded = self._library.engine_segment_single_threaded
        with self._workspaces.take() as workspace:
            if workspace is None:
                check(self._library.engine_segment(self._engine, *rest))
            else:
                check(segment_single_threaded(self._engine, workspace, *rest))
        return mask

    def coarse_logits(self, canvas: Array) -> Floats:
        """Turn a canvas (H, W, 3) into the logits of every `stride`th pixel, (C, h, w)."""
        height, width, _ = canvas.shape
        logits = np.empty(
            (self._classes, height // self._stride, width // self._stride), np.float32
        )
        rest = (*pass_canvas(canvas), pass_array(logits))
        single_threaded = self._library.engine_coarse_logits_single_threaded
        with self._workspaces.take() as workspace:
            if workspace is None:
                check(self._library.engine_coarse_logits(self._engine, *rest))
            else:
                check(single_threaded(self._engine, workspace, *rest))
        return logits

    def head(self, coarse: Floats, region: Region, *, confidence: bool = False) -> Array:
        """Turn the coarse logits (C, h, w) of a canvas into its mask, of shape `region.output`.

        With `confidence`, into the confidence.
        """
        if not self._has_native_head:
            head = self._numpy_head
            return (head.measure_confidence if confidence else head)(coarse, region)
        coarse = np.ascontiguousarray(coarse, np.float32)
        _, height, width = coarse.shape
        mask = np.empty(region.output, np.uint8)
        pointers = pass_region(region), confidence, pass_array(mask)
        rest = (pass_array(coarse), height, width, *pointers)
        with self._workspaces.take_all():
            check(self._library.engine_head(self._engine, *rest))
        return mask


def _stop(native: ctypes.CDLL, engine: int, pid: int) -> None:
    """Stop the engine, but not in a forked process, which has no copy of its threads."""
    if os.getpid() == pid:
        native.engine_stop(engine)


class _Workspaces:
    """Lends the engine's workspaces: all to a single caller, or one to each of several callers."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free = list(range(count))
        self._callers = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self) -> Iterator[int | None]:
        """Lend a workspace. Yields its number, or None if a single caller may use all threads."""
        with self._changed:
            self._callers += 1
            self._changed.wait_for(lambda: self._free)
            alone = self._callers == 1
            taken = [self._free.pop() for _ in range(self._count if alone else 1)]
        try:
            yield None if alone else taken[0]
        finally:
            self._give_back(taken)

    @contextmanager
    def take_all(self) -> Iterator[None]:
        """Wait until every workspace is free, and lend all of them."""
        with self._changed:
            self._callers += 1
            self._changed.wait_for(lambda: len(self._free) == self._count)
            self._free.clear()
        try:
            yield
        finally:
            self._give_back(range(self._count))

    def _give_back(self, workspaces: Iterable[int]) -> None:
        with self._changed:
            self._callers -= 1
            self._free += workspaces
            self._changed.notify_all()
