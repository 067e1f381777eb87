"""Copies between the host and a device for which neither waits. Knows nothing of what is copied."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to the device, behind the work that waits there already.

    A copy from memory that is not pinned would wait for it.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Receipt:
    """A copy of a small tensor to the host, which is read later."""

    def __init__(self, tensor: Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        self._copy = tensor.detach().to("cpu", non_blocking=True)  # to pinned memory
        if tensor.is_cuda:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """Wait for the copy, and not for what the device has been given to do since."""
        if self._copied:
            self._copied.synchronize()
        return self._copy
