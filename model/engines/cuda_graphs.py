"""CUDA graphs of a function: its kernels are recorded once for each shape and replayed by one call.

Everything runs on the caller's current stream. The caller holds a lock, so that two graphs never
run at the same time. Knows nothing of the function.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.engines.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)

Shape = tuple[int, ...]

RECORDING = threading.Lock()
"""The lock is held while a graph is recorded, and during a wait for the whole device: that would
end a recording with an error, also one of another engine of the process. A caller's own lock is
taken first.
"""

WORTH_RECORDING = 3
"""The number of the call at which a shape is recorded. Many shapes occur only once, and recording
takes long.
"""

MAX_GRAPHS = 64
"""The number of graphs that are kept. The least recently used one is evicted."""

MAX_COUNTED = 64
"""The number of shapes without a graph whose calls are counted, the most recent ones. Of thousands
of shapes in random order, hardly any is then recorded just to be evicted before it occurs again."""

CALLS_PER_EVICTION = 100
"""The calls between two recordings that evict a graph. So recordings take little of the time where
there are more shapes than graphs, and shapes that no longer occur are replaced in the end."""


@dataclass(frozen=True, slots=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    logits: Tensor


class GraphedFunction:
    """Turns images (N, H, W, 3) into logits with a function that depends on nothing else."""

    def __init__(self, compute: Callable[[Tensor], Tensor], stream: torch.cuda.Stream) -> None:
        self._compute = compute
        self._stream = stream
        # All graphs share one pool for intermediate results. No graph reads those of another, and
        # each keeps its own logits, so graphs may run in any order.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: OrderedDict[Shape, _Graph] = OrderedDict()
        self._calls: OrderedDict[Shape, int] = OrderedDict()
        self._calls_since_eviction = CALLS_PER_EVICTION
        self._can_record = True

    def __call__(self, images: Tensor) -> Tensor:
        """The next call may overwrite the logits: read them before it, on the same stream."""
        shape = tuple(images.shape)
        self._calls_since_eviction += 1
        if shape not in self._graphs:
            if not self._is_worth_recording(shape):
                return self._compute(images)
            del self._calls[
                shape
            ]  # also without memory for it: then the caller's next try is plain
            if not self._try_recording(images):
                return self._compute(images)
        graph = self._graphs[shape]
        self._graphs.move_to_end(shape)
        graph.images.copy_(images)  # on this stream, so after the last replay
        graph.graph.replay()
        return graph.logits

    def forget(self) -> bool:
        """Release the graphs' memory. Returns whether there were any."""
        self._stream.synchronize()  # no graph is running now
        had_any = bool(self._graphs)
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()  # a pool without graphs cannot be used again
        return had_any

    def _is_worth_recording(self, shape: Shape) -> bool:
        if not self._can_record or self._count(shape) < WORTH_RECORDING:
            return False
        return len(self._graphs) < MAX_GRAPHS or self._calls_since_eviction > CALLS_PER_EVICTION

    def _try_recording(self, images: Tensor) -> bool:
        """Record a graph for the shape. If that fails, nothing is recorded any more."""
        try:
            self._graphs[tuple(images.shape)] = self._record(images)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            log.warning("the network runs without CUDA graphs, as one was not recorded: %s", error)
            self._can_record = False
            self.forget()
        return self._can_record

    def _count(self, shape: Shape) -> int:
        self._calls[shape] = self._calls.pop(shape, 0) + 1
        if len(self._calls) > MAX_COUNTED:
            self._calls.popitem(last=False)
        return self._calls[shape]

    def _record(self, images: Tensor) -> _Graph:
        self._stream.synchronize()
        while len(self._graphs) >= MAX_GRAPHS:
            self._graphs.popitem(last=False)
            self._calls_since_eviction = 0
        static = images.clone()
        # Before the recording, everything is loaded and allocated that the first call of a shape
        # needs. cuDNN chooses its algorithms by its rules: to measure them may take seconds, and a
        # request waits.
        self._compute(static)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": the copies of other threads are not recorded.
        with (
            RECORDING,
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            logits = self._compute(static)
        return _Graph(graph, static, logits)
