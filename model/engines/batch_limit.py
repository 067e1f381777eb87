"""How many pixels a device computes at once, learnt from what its memory refused.

Knows nothing of the device.
"""

import threading
from collections.abc import Iterator


class BatchLimit:
    """No limit, until a batch did not fit."""

    def __init__(self) -> None:
        self.pixels: int | None = None
        self._lock = threading.Lock()

    def split(self, images: int, *, pixels_each: int) -> Iterator[slice]:
        """Parts of a batch that keep the limit, each of one image at least."""
        step = images if self.pixels is None else max(1, self.pixels // pixels_each)
        for start in range(0, images, step):
            yield slice(start, min(start + step, images))

    def halve(self, refused_pixels: int) -> None:
        """Remember that this many did not fit: half of them may."""
        with self._lock:  # another caller's batch may have been refused at the same time
            known = refused_pixels if self.pixels is None else self.pixels
            self.pixels = min(known, refused_pixels // 2)
