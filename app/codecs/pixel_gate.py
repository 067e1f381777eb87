"""How many pixels the decoders may work on at the same time; small images pass large ones.

Knows nothing of decoding. Safe to use from any thread.
"""

import threading
from collections.abc import Callable

from app.scheduling.budget import leaves_room


class PixelGate:
    """A limit of pixels together. One image alone may always pass, however large it is.

    An image passes if it takes at most half of what is free. So large images, however many, leave
    room for small ones.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pixels = 0
        self._changed = threading.Condition()

    def enter(self, pixels: int, *, is_cancelled: Callable[[], bool]) -> bool:
        """Waits until the pixels fit, and counts them; False where the wait was cancelled.

        Whoever fits passes: a small image does not wait for a large one that came first.
        """

        def may_go_on() -> bool:
            fits = leaves_room(pixels, held=self._pixels, limit=self._limit)
            return self._pixels == 0 or fits or is_cancelled()

        with self._changed:
            self._changed.wait_for(may_go_on)
            if is_cancelled():
                return False
            self._pixels += pixels
            return True

    def leave(self, pixels: int) -> None:
        """Give back what `enter` has counted."""
        with self._changed:
            self._pixels -= pixels
            self._changed.notify_all()

    def wake(self) -> None:
        """Have everyone who waits ask again whether it was cancelled."""
        with self._changed:
            self._changed.notify_all()
