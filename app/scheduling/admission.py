"""Admission: a request gets a place in the queue if its mask can be ready before its deadline.

Predicts the wait from the most recent requests. Knows nothing of HTTP, images or the engine.
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

NEWEST_WEIGHT = 0.1
"""The weight of the newest request in the moving average of the seconds per place."""


class Admission:
    """Admits a request or refuses it at once; an admitted request is answered by its deadline."""

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
            raise make_overloaded(
                f"All {self._max_queue} places in the queue are taken.",
                reason="queue-full",
                seconds=wait_s,
            )
        # An empty queue admits every request, because the average may come from one slow image.
        if self.admitted and wait_s > left_s:
            raise make_overloaded(
                f"The mask would take about {wait_s:.2g} s; there are {max(left_s, 0):.2g} s left.",
                reason="deadline",
                seconds=wait_s - left_s,
            )

    def count_fitting(self, pixels: int, *, images: int) -> int:
        """Return how many requests, each with some images of so many pixels, fit together.

        May return 0 or less for requests that are admitted only one at a time.
        """
        return min(self._max_queue, self._pixels.count_fitting(pixels) // images)

    @asynccontextmanager
    async def admit(self, due: float) -> AsyncIterator[Share]:
        """Hold a place and a share of the pixels during the block.

        Raises what `require_place` raises. At `due`, cancels the block and raises Overloaded. The
        place stays taken until the share is released: work that outlives its request, such as a
        decoder in C, keeps both.
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
                "The deadline of this request has passed.",
                reason="expired",
                seconds=self.predicted_wait_s,
            ) from error

    def _change_count(self, change: int) -> None:
        """Add to the number of admitted requests, from any thread."""
        with self._lock:
            self.admitted += change
            self._metrics.in_flight.set(self.admitted)

    def update_pace(self, seconds_per_place: float) -> None:
        """Add to the exponential moving average of the seconds per place.

        With n admitted requests, each takes about n times these seconds, whichever stage is the
        slowest and however many requests run at the same time. The n are those at the admission of
        the request. If it then shares the engine with later ones, its seconds per place are too
        many. But if the later ones wait for it, counting them would make the seconds too few, and
        requests would be admitted that expire.
        """
        before = self._seconds_per_place or seconds_per_place
        self._seconds_per_place = before + NEWEST_WEIGHT * (seconds_per_place - before)


def make_overloaded(detail: str, *, reason: str, seconds: float) -> Overloaded:
    """Return the error; its `retry_after_s` is the seconds, rounded up, at least 1."""
    seconds = max(1, math.ceil(seconds))
    return Overloaded(
        detail,
        reason=reason,
        remedy=f"Try again in {seconds} s.",
        retry_after_s=seconds,
    )
