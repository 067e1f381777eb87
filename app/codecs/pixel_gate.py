"""Limits the pixels that the decoders work on at the same time; small images overtake large ones.

Knows nothing of decoding. All methods may be called from any thread.
"""

import threading
from collections.abc import Callable

from app.scheduling.budget import leaves_room


class PixelGate:
    """A limit of the pixels of all images together. An image that is alone always passes.

    Otherwise an image passes if it takes at most half of what is free, so that any number of large
    images leave room for small ones.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pixels = 0
        self._changed = threading.Condition()

    def enter(self, pixels: int, *, is_cancelled: Callable[[], bool]) -> bool:
        """Wait until the pixels fit, and count them. Return False if the wait was cancelled.

        A small image that fits does not wait for a large one that came first.
        """

        def may_stop_waiting() -> bool:
            fits = leaves_room(pixels, held=self._pixels, limit=self._limit)
            return self._pixels == 0 or fits or is_cancelled()

        with self._changed:
            self._changed.wait_for(may_stop_waiting)
            if is_cancelled():
                return False
            self._pixels += pixels
            return True

    def leave(self, pixels: int) -> None:
        """Release the pixels that `enter` has counted."""
        with self._changed:
            self._pixels -= pixels
            self._changed.notify_all()

    def wake(self) -> None:
        """Make all waiting threads check whether they were cancelled."""
        with self._changed:
            self._changed.notify_all()
