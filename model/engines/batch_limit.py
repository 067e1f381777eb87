"""The number of pixels that a device computes at once, learnt from batches that did not fit.

Knows nothing of the device.
"""

import threading
from collections.abc import Iterator


class BatchLimit:
    """There is no limit until a batch does not fit into memory."""

    def __init__(self) -> None:
        self.pixels: int | None = None
        self._lock = threading.Lock()

    def split(self, images: int, *, pixels_each: int) -> Iterator[slice]:
        """Split a batch into parts within the limit, of at least one image each."""
        step = images if self.pixels is None else max(1, self.pixels // pixels_each)
        for start in range(0, images, step):
            yield slice(start, min(start + step, images))

    def halve(self, refused_pixels: int) -> None:
        """Set the limit to half of the pixels that did not fit."""
        with self._lock:  # another caller's batch may have failed at the same time
            known = refused_pixels if self.pixels is None else self.pixels
            self.pixels = min(known, refused_pixels // 2)
