"""Admission: a request gets a place in the queue if its mask can be ready before its deadline.

The wait is predicted from the last requests. Knows nothing of HTTP, of images, or of the engine.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.errors import Overloaded
from app.observability.metrics import Metrics
from app.scheduling.budget import Budget, Share

PACE_SHARE = 0.1
"""The weight of the newest request in the moving average of the seconds per place."""


class Admission:
    """Admits a request or refuses it at once; an admitted one is answered by its deadline."""

    def __init__(self, *, max_queue: int, max_queue_pixels: int, metrics: Metrics) -> None:
        self._max_queue = max_queue
        self._metrics = metrics
        self._pixels = Budget(
            max_queue_pixels, unit="pixels", reason="pixels", gauge=metrics.pixels
        )
        self.admitted = 0
        self._lock = threading.Lock()
        self._seconds_per_place = 0.0

    @property
    def predicted_wait_s(self) -> float:
        """The predicted seconds until a new request would have its mask."""
        return (self.admitted + 1) * self._seconds_per_place

    def require_place(self, due: float) -> None:
        """Raise Overloaded if no place is free or the mask would be ready after `due`.

        `due` is a reading of `time.perf_counter`.
        """
        wait_s, left_s = self.predicted_wait_s, due - time.perf_counter()
        if self.admitted >= self._max_queue:
            raise make_overloaded(f"All {self._max_queue} places are taken.", "queue-full", wait_s)
        # A request with an empty queue is always admitted: the average may be of one slow image.
        if self.admitted and wait_s > left_s:
            raise make_overloaded(
                f"The mask would take about {wait_s:.2g} s; there are {max(left_s, 0):.2g} s left.",
                "deadline",
                wait_s - left_s,
            )

    @asynccontextmanager
    async def admit(self, due: float) -> AsyncIterator[Share]:
        """Hold a place and a share of the pixels during the block.

        Raises what `require_place` raises. At `due` the block is cancelled and Overloaded raised.
        The place stays taken until the share is released: work that outlives its request, such as
        a decoder in C, keeps both.
        """
        self.require_place(due)
        since = time.perf_counter()
        self._change_count(1)
        places = self.admitted
        try:
            with self._pixels.share(on_free=lambda: self._change_count(-1)) as pixels:
                async with asyncio.timeout(due - since) as deadline:
                    yield pixels
            self.update_pace((time.perf_counter() - since) / places)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise make_overloaded(
                "The time for this request is over.", "expired", self.predicted_wait_s
            ) from error

    def _change_count(self, change: int) -> None:
        """Add to the number of admitted requests, from any thread."""
        with self._lock:
            self.admitted += change
            self._metrics.in_flight.set(self.admitted)

    def update_pace(self, seconds_per_place: float) -> None:
        """Add to the exponential moving average, which follows the load and not single images.

        A request among n takes about n times as long as one place costs, whichever stage is the
        slow one and however many requests run at once.
        """
        before = self._seconds_per_place or seconds_per_place
        self._seconds_per_place = before + PACE_SHARE * (seconds_per_place - before)


def make_overloaded(detail: str, reason: str, seconds: float) -> Overloaded:
    """Return the error with `retry_after_s`: the seconds, rounded up, at least one."""
    seconds = max(1, math.ceil(seconds))
    return Overloaded(
        detail,
        reason=reason,
        remedy=f"Try again in {seconds} s.",
        retry_after_s=seconds,
    )
