"""The number of pixels that a device computes at once, learnt from batches that did not fit.

Knows nothing of the device.
"""

import sys
import threading
from collections.abc import Callable

from model.engines.base import Array
from model.engines.out_of_memory import is_out_of_memory

Compute = Callable[[slice], list[Array]]
"""Computes a part of a batch."""


class BatchLimit:
    """There is no limit until a batch does not fit into memory."""

    def __init__(self) -> None:
        self.pixels: int | None = None
        self._lock = threading.Lock()

    def compute(
        self, compute: Compute, images: int, *, pixels_each: int, free: Callable[[], bool]
    ) -> list[Array]:
        """Compute a batch in parts within the limit, of at least one image each.

        After a part that did not fit, `free` returns whether it could release memory: then the same
        part is tried once more, or else a smaller one. Raises the error of an image that does not
        fit alone.
        """
        results: list[Array] = []
        has_freed = False
        while len(results) < images:
            size = min(self._limit(pixels_each), images - len(results))
            try:
                results += compute(slice(len(results), len(results) + size))
                has_freed = False
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                has_freed = free() and not has_freed
                if size == 1 and not has_freed:
                    raise
            # Outside the handler, where the error's traceback would keep the part's memory.
            if not has_freed:
                self.halve(size * pixels_each)
        return results

    def _limit(self, pixels_each: int) -> int:
        return sys.maxsize if self.pixels is None else max(1, self.pixels // pixels_each)

    def halve(self, refused_pixels: int) -> None:
        """Set the limit to half of the pixels that did not fit."""
        with self._lock:  # another caller's batch may have failed at the same time
            known = refused_pixels if self.pixels is None else self.pixels
            self.pixels = min(known, refused_pixels // 2)
