"""Memory that a worker shares with an engine process, and the frames of images in it.

It belongs to no file: it is free when both have closed it, however they end. Knows nothing of
messages.
"""

import fcntl
import mmap
import os

import numpy as np

from app.sharing.messages import MalformedMessage
from model.engines.base import Array, Size
from model.predictor import Canvas

ALIGNMENT = 64

SMALL_BYTES = 4 * 2**20
"""The room of an image in the memory that a connection has from its start. Larger images get memory
of their own, which is free after their answer.
"""


def create_memory(size_bytes: int) -> int:
    """Return the descriptor of new memory, which uses no pages yet. Raises OSError."""
    descriptor = os.memfd_create("segmentation", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.truncate(descriptor, size_bytes)
        # The other process may rely on the size: a shorter file would end it with SIGBUS.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_memory(descriptor: int | None) -> mmap.mmap:
    """Map memory that `create_memory` has made. Raises MalformedMessage for anything else."""
    if descriptor is None:
        raise MalformedMessage("a message has come without its memory")
    try:
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise MalformedMessage("shared memory could become smaller while it is used")
        return mmap.mmap(descriptor, 0)
    except (OSError, ValueError) as error:
        raise MalformedMessage(f"shared memory cannot be used: {error}") from error


class SharedMemory:
    """Memory of this process whose descriptor can be sent to another."""

    def __init__(self, size_bytes: int) -> None:
        """Raises OSError."""
        self._descriptor = create_memory(size_bytes)
        self.map = map_memory(self._descriptor)

    def open_again(self) -> int:
        """Return another descriptor, for a message that closes it."""
        return os.dup(self._descriptor)

    def close(self) -> None:
        """Close the descriptor. The memory is free when no array refers to it any more."""
        os.close(self._descriptor)


class Frame:
    """The place of one image: whether its computation has begun, its canvas, and its mask."""

    def __init__(self, memory: mmap.mmap, offset: int, canvas: Size, output: Size) -> None:
        """Raises MalformedMessage if the memory has no room for it there."""
        if min(*canvas, *output) < 1 or offset % ALIGNMENT:
            raise MalformedMessage(f"no frame has {canvas} and {output} at {offset}")
        end = offset + count_frame_bytes(canvas, output)
        if end > len(memory):
            raise MalformedMessage(f"the frame ends at {end} of {len(memory)} bytes")
        content = np.frombuffer(memory, np.uint8, end - offset, offset)
        (height, width), (mask_height, mask_width) = canvas, output
        canvas_end = ALIGNMENT + 3 * height * width
        self._begun = content[:1]
        self.canvas: Array = content[ALIGNMENT:canvas_end].reshape(height, width, 3)
        """(H, W, 3) uint8, written by the worker."""
        self.mask: Array = content[canvas_end:].reshape(mask_height, mask_width)
        """(H, W) uint8, written by the engine."""

    @property
    def has_begun(self) -> bool:
        """Whether the engine has begun to compute, which may have ended its process."""
        return bool(self._begun[0])

    def begin(self) -> None:
        """Mark the computation as begun."""
        self._begun[0] = 1

    def reset(self) -> None:
        """Mark the computation as not begun."""
        self._begun[0] = 0

    def fill(self, canvas: Canvas) -> None:
        """Write the canvas."""
        np.copyto(self.canvas, canvas.pixels)


def count_frame_bytes(canvas: Size, output: Size) -> int:
    """Return the size of a frame."""
    return ALIGNMENT + 3 * canvas[0] * canvas[1] + output[0] * output[1]
