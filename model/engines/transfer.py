"""Transfers a batch to the device and back: within the CPU, or to a GPU on streams of their own.

Knows nothing of what is computed there.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from model.engines.base import Array
from model.engines.cuda_graphs import RECORDING
from model.errors import DeviceLost

Compute = Callable[[Tensor, Tensor], None]
"""Turns images (N, H, W, 3) uint8 into a run of bytes, both on the device. It may return early."""

Result = TypeVar("Result")

BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""The sizes of a GPU's batches. Others are padded, so that there are few shapes."""


class Transfer(Protocol):
    def run(
        self, canvases: Sequence[Array], result_bytes: int, compute: Compute
    ) -> AbstractContextManager[Array]:
        """Yield the bytes that `compute` made of the canvases. They are valid within the block."""
        ...


class CpuTransfer:
    @contextmanager
    def run(
        self, canvases: Sequence[Array], result_bytes: int, compute: Compute
    ) -> Iterator[Array]:
        result = torch.empty(result_bytes, dtype=torch.uint8)
        compute(torch.from_numpy(np.stack(canvases)), result)
        yield result.numpy()


class CudaTransfer:
    """Three streams that callers share: one for each direction, and one for kernels.

    While one caller's batch is computed, the next batch is copied to the device, and the previous
    result is copied back. Each caller has its own buffers, a slot.
    """

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._sending, self.computing, self._returning = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            for _ in range(3)
        )
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(slots):
            self._free.put(_Slot(self._sending, self.computing))

    @contextmanager
    def run(
        self, canvases: Sequence[Array], result_bytes: int, compute: Compute
    ) -> Iterator[Array]:
        slot = self._free.get()
        try:
            yield self._run(slot, canvases, result_bytes, compute)
        finally:
            self._free.put(slot)

    def run_alone(self, function: Callable[[], Result]) -> Result:
        """Run a function while no caller starts kernels."""
        with self._lock:
            return function()

    def _run(
        self, slot: "_Slot", canvases: Sequence[Array], result_bytes: int, compute: Compute
    ) -> Array:
        try:
            images = self._send(slot, canvases)
            # Kernels of different callers share the graphs' memory, so they must not mix. The lock
            # is only held until they are started. What is allocated on this stream while a graph is
            # recorded belongs to the graphs, which write over it: so nothing is without the lock.
            with self._lock, torch.cuda.stream(self.computing):
                result, on_device = slot.results.take(result_bytes)
                self.computing.wait_event(slot.has_arrived)
                compute(images, on_device)
                slot.is_computed.record()
            with torch.cuda.stream(self._returning):
                self._returning.wait_event(slot.is_computed)
                result.copy_(on_device, non_blocking=True)
                slot.has_returned.record()
            slot.has_returned.synchronize()  # the only wait; other threads run meanwhile
        except Exception:
            self._require_device()
            raise
        array: Array = result.numpy()
        return array

    def _send(self, slot: "_Slot", canvases: Sequence[Array]) -> Tensor:
        """Start the copy to the device. Returns the images (N, H, W, 3), padded at the end."""
        # The slot's last call has ended, so nothing reads its buffers now.
        count, each = len(canvases), canvases[0].size
        filled_up = next((size for size in BATCH_SIZES if size >= count), count)
        images, on_device = slot.images.take(filled_up * each)
        shape = (filled_up, *canvases[0].shape)
        np.stack(canvases, out=images.numpy().reshape(shape)[:count])
        with torch.cuda.stream(self._sending):
            on_device[: count * each].copy_(images[: count * each], non_blocking=True)
            slot.has_arrived.record()
        return on_device.view(shape)

    def _require_device(self) -> None:
        """After an error, wait for the started kernels. Raises DeviceLost if the device is lost.

        After an error in a kernel, such as a wrong address, every later call of the process fails.
        """
        try:
            with self._lock, RECORDING:
                torch.cuda.synchronize(self._device)
        except Exception as error:
            raise DeviceLost(f"the GPU's context is lost: {error}") from error


class _Slot:
    """The buffers of one call, and the events that its steps wait for."""

    def __init__(self, sending: torch.cuda.Stream, computing: torch.cuda.Stream) -> None:
        # The stream that first writes to each buffer: see _Buffer.
        self.images, self.results = _Buffer(sending), _Buffer(computing)
        # A blocking wait leaves the core to the codecs.
        self.has_arrived, self.is_computed, self.has_returned = (
            torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            for _ in range(3)
        )


class _Buffer:
    """Pinned memory and as much device memory. It grows to the largest call and never shrinks."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """PyTorch may reuse freed memory at once, while kernels of the same stream still use it.

        So the memory is safe on that `stream` only.
        """
        self._stream = stream
        self._pinned = self._on_device = torch.empty(0, dtype=torch.uint8)

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        if count > len(self._on_device):
            room = round_up(count)
            self._pinned = self._on_device = torch.empty(0, dtype=torch.uint8)  # frees the old ones
            pinned = torch.empty(room, dtype=torch.uint8, pin_memory=True)
            with torch.cuda.stream(self._stream):
                device = self._stream.device
                self._on_device = torch.empty(room, dtype=torch.uint8, device=device)
            self._pinned = pinned
        return self._pinned[:count], self._on_device[:count]


def round_up(count: int) -> int:
    """Return the bytes of a buffer: a power of two, or above 64 MiB a multiple of 16 MiB."""
    if count <= 64 << 20:
        return 1 << (count - 1).bit_length()
    return -(-count // (16 << 20)) * (16 << 20)
