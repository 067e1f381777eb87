"""The way of a batch to the device and back: CPU memory, or a GPU's with streams of their own.

Knows nothing of what is computed there.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model.engines.base import Array
from model.errors import DeviceLost

Compute = Callable[[Tensor, Tensor], None]
"""Images (N, H, W, 3) uint8 to a run of bytes, both on the device; it only has to be started."""

BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""The sizes of a GPU's batches: others are filled up, so that few shapes occur."""


class Transfer(Protocol):
    def run(
        self, canvases: Sequence[Array], result_bytes: int, compute: Compute
    ) -> AbstractContextManager[Array]:
        """The bytes that `compute` made of the canvases, only for the block."""
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
    """Three streams, one for each direction and one for kernels, shared by several callers.

    While one caller's batch is computed, the next one's is copied to the device, and the last one's
    result back. Each caller has buffers of its own, a slot.
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

    def _run(
        self, slot: "_Slot", canvases: Sequence[Array], result_bytes: int, compute: Compute
    ) -> Array:
        try:
            images = self._send(slot, canvases)
            result, on_device = slot.results.take(result_bytes)
            # Kernels of different callers must not mix, for they share the graphs' memory; the lock
            # is held only until they are started.
            with self._lock, torch.cuda.stream(self.computing):
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
        """Start the copy to the device, into the first of the images (N, H, W, 3), filled up."""
        # The slot's last call has ended: nothing reads its buffers any more.
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
        """After an error: wait for what was started. Raises DeviceLost if nothing works any more.

        An error in a kernel, such as a wrong address, makes every later call of the process fail.
        """
        try:
            torch.cuda.synchronize(self._device)
        except Exception as error:
            raise DeviceLost(f"the GPU's context is lost: {error}") from error


class _Slot:
    """The buffers of one call, and the events that its steps wait for."""

    def __init__(self, sending: torch.cuda.Stream, computing: torch.cuda.Stream) -> None:
        # Of a buffer's memory, the stream that first writes to it: see _Buffer.
        self.images, self.results = _Buffer(sending), _Buffer(computing)
        # Blocking: a thread that waits leaves its core to the codecs.
        self.has_arrived, self.is_computed, self.has_returned = (
            torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            for _ in range(3)
        )


class _Buffer:
    """Pinned memory and as much of the device's; it grows to the largest call's and stays."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """PyTorch may give freed memory to the same stream at once, while kernels still use it.

        That is safe for work on that `stream`, and for no other.
        """
        self._stream = stream
        self._pinned = self._on_device = torch.empty(0, dtype=torch.uint8)

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        if count > len(self._on_device):
            room = 1 << (count - 1).bit_length()
            pinned = torch.empty(room, dtype=torch.uint8, pin_memory=True)
            with torch.cuda.stream(self._stream):
                device = self._stream.device
                self._on_device = torch.empty(room, dtype=torch.uint8, device=device)
            self._pinned = pinned
        return self._pinned[:count], self._on_device[:count]
