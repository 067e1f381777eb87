"""CUDA graphs of a function: its kernels recorded once for a shape, then started by one call.

Knows nothing of the function. All of it runs on one stream, the current one of the caller, who
holds a lock: two graphs never run at the same time.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]

WORTH_RECORDING = 3
"""A shape is recorded when it comes for this time: many come once, and recording takes a while."""

MAX_GRAPHS = 64
"""Graphs that are kept; the least recently used go first."""

MAX_COUNTED = 64
"""Shapes without a graph whose calls are counted, those that came last. So where thousands of
shapes come in any order, hardly one is recorded, only to be forgotten before it comes again."""


@dataclass(frozen=True, slots=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    images: Tensor
    logits: Tensor


class GraphedFunction:
    """Images (N, H, W, 3) to logits, as the function, which reads no other memory that changes."""

    def __init__(self, compute: Callable[[Tensor], Tensor], stream: torch.cuda.Stream) -> None:
        self._compute = compute
        self._stream = stream
        # One pool for all: what one graph computes in between may lie where another's did. No graph
        # reads what another has left there, and each one's logits are kept, so any order is safe.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: OrderedDict[Shape, _Graph] = OrderedDict()
        self._calls: OrderedDict[Shape, int] = OrderedDict()

    def __call__(self, images: Tensor) -> Tensor:
        """Logits that the next call may overwrite: read them on the same stream, before it."""
        shape = tuple(images.shape)
        graph = self._graphs.get(shape)
        if graph is None:
            if self._count(shape) < WORTH_RECORDING:
                return self._compute(images)
            del self._calls[shape]
            graph = self._graphs[shape] = self._record(images)
        self._graphs.move_to_end(shape)
        graph.images.copy_(images)  # on the device, and on this stream: behind the last replay
        graph.graph.replay()
        return graph.logits

    def forget(self) -> None:
        """Give the graphs' memory back."""
        self._stream.synchronize()  # none of them is running any more
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()  # a pool without graphs cannot be used again

    def _count(self, shape: Shape) -> int:
        self._calls[shape] = self._calls.pop(shape, 0) + 1
        if len(self._calls) > MAX_COUNTED:
            self._calls.popitem(last=False)
        return self._calls[shape]

    def _record(self, images: Tensor) -> _Graph:
        self._stream.synchronize()
        while len(self._graphs) >= MAX_GRAPHS:
            self._graphs.popitem(last=False)
        static = images.clone()
        # cuDNN measures its algorithms for this shape, before the recording: in it, it must not.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            self._compute(static)
            graph = torch.cuda.CUDAGraph()
            # "thread_local": what other threads do meanwhile, such as copies, is not recorded.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                logits = self._compute(static)
        return _Graph(graph, static, logits)
