"""Tells whether an error means that the memory of a device is full. Knows nothing of the engine."""

import torch

MESSAGES = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
"""The words of CUDA, and of cuBLAS and cuDNN, in errors that are not of PyTorch's own type."""


def is_out_of_memory(error: BaseException) -> bool:
    """Also true of an error that came up while such a one was handled, as in a recording."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError):
            return True
        if isinstance(cause, RuntimeError) and any(text in str(cause) for text in MESSAGES):
            return True
        cause = cause.__context__
    return False
