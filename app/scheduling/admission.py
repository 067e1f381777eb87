"""Who is let in: a place among the requests that are worked on, if its mask can come in time.

Predicts by the pace of the last requests; knows nothing of HTTP, of images, or of the engine.
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
"""Of the last request, in the mean of seconds a place."""


class Admission:
    """Admit or refuse first; everything admitted is answered, at its deadline at the latest."""

    def __init__(self, *, max_queue: int, max_queue_pixels: int, metrics: Metrics) -> None:
        self._max_queue = max_queue
        self._metrics = metrics
        self._pixels = Budget(
            max_queue_pixels, unit="pixels", reason="pixels", gauge=metrics.pixels
        )
        self._admitted = 0
        self._lock = threading.Lock()
        self._seconds_per_place = 0.0

    @property
    def predicted_wait_s(self) -> float:
        """Until a request that came now would have its mask."""
        return (self._admitted + 1) * self._seconds_per_place

    def require_place(self, due: float) -> None:
        """Raises Overloaded where no place is free, or the mask would come after `due`.

        `due` is a reading of `time.perf_counter`.
        """
        wait_s, left_s = self.predicted_wait_s, due - time.perf_counter()
        if self._admitted >= self._max_queue:
            raise overloaded(f"All {self._max_queue} places are taken.", "queue-full", wait_s)
        # With nobody before it, it may try: the pace may be that of one slow image, long ago.
        if self._admitted and wait_s > left_s:
            raise overloaded(
                f"The mask would take about {wait_s:.2g} s; there are {max(left_s, 0):.2g} s left.",
                "deadline",
                wait_s - left_s,
            )

    @asynccontextmanager
    async def admitted(self, due: float) -> AsyncIterator[Share]:
        """A place, and a share of the pixels. Raises as `require_place`, and Overloaded at `due`.

        What still runs in the block at `due` is cancelled. The place is taken until the share is
        free: work that outlives its request, as a decoding in C may, keeps both.
        """
        self.require_place(due)
        since = time.perf_counter()
        self._count(1)
        places = self._admitted
        try:
            with self._pixels.share(on_free=lambda: self._count(-1)) as pixels:
                async with asyncio.timeout(due - since) as deadline:
                    yield pixels
            self._note_pace((time.perf_counter() - since) / places)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise overloaded(
                "The time for this request is over.", "expired", self.predicted_wait_s
            ) from error

    def _count(self, change: int) -> None:
        """From any thread."""
        with self._lock:
            self._admitted += change
            self._metrics.in_flight.set(self._admitted)

    def _note_pace(self, seconds_per_place: float) -> None:
        """Into an exponential mean, which follows the load and not each image.

        A request among n waits for about n, whichever stage is the slow one and however many work
        at once: its time, divided by n, says what one place costs.
        """
        before = self._seconds_per_place or seconds_per_place
        self._seconds_per_place = before + PACE_SHARE * (seconds_per_place - before)


def overloaded(detail: str, reason: str, seconds: float) -> Overloaded:
    """With the seconds to come back after, whole ones and one at least."""
    seconds = max(1, math.ceil(seconds))
    return Overloaded(
        detail,
        reason=reason,
        remedy=f"Try again in {seconds} s.",
        retry_after_s=seconds,
    )
