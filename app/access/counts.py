"""Counts the requests of each caller in the memory of one process.

Knows nothing of HTTP or of other processes; `app.access.shared_counts` counts for all of them.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from limits import RateLimitItem
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

MAX_WINDOWS = 2**15
"""The number of callers whose windows one rate keeps, in about 10 MB; the oldest is evicted."""


@dataclass(frozen=True, slots=True)
class Use:
    """One rate, and how much of it a caller has used with its latest request."""

    rate: RateLimitItem
    is_exhausted: bool
    """Whether the rate refuses the request."""
    left: int
    ends_in_s: int
    """The seconds until the window ends, at least 1."""


class Counts(Protocol):
    """Counts requests against one or several rates."""

    async def take(self, caller: str) -> Sequence[Use]:
        """Use one request of each rate, or of none if one of them is exhausted."""

    async def aclose(self) -> None:
        """Release all connections."""


class OwnCounts:
    """Counts the requests that this process receives."""

    def __init__(self, rates: Sequence[RateLimitItem]) -> None:
        self._limiters = [(rate, FixedWindowRateLimiter(Windows())) for rate in rates]

    async def take(self, caller: str) -> Sequence[Use]:
        free = [limiter.test(rate, caller) for rate, limiter in self._limiters]
        if all(free):
            for rate, limiter in self._limiters:
                limiter.hit(rate, caller)
        return [
            self._describe(rate, limiter, caller, is_exhausted=not is_free)
            for (rate, limiter), is_free in zip(self._limiters, free, strict=True)
        ]

    async def aclose(self) -> None:
        pass

    @staticmethod
    def _describe(
        rate: RateLimitItem, limiter: FixedWindowRateLimiter, caller: str, *, is_exhausted: bool
    ) -> Use:
        window = limiter.get_window_stats(rate, caller)
        ends_in_s = max(1, ceil(window.reset_time - time.monotonic()))
        return Use(rate, is_exhausted, window.remaining, ends_in_s)


@dataclass(slots=True)
class _Window:
    """The requests of one caller until `ends`, a reading of the monotonic clock."""

    ends: float
    used: int = 0


class Windows(Storage):
    """The newest MAX_WINDOWS windows of one rate, in the order in which they end.

    The library's MemoryStorage keeps a window for every address and scans all of them in a thread
    after each request, which takes half a core with 100 000 addresses and 500 requests per second.
    This storage is used by the event loop only, and runs on the monotonic clock.
    """

    def __init__(self) -> None:
        super().__init__()
        # A plain dict would scan the gaps of deleted entries to find its oldest one.
        self.by_key: OrderedDict[str, _Window] = OrderedDict()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        window = self._find_current(key)
        if window is None:
            self.by_key.pop(key, None)
            window = self.by_key[key] = _Window(ends=time.monotonic() + expiry)
            self._evict()
        window.used += amount
        return window.used

    def get(self, key: str) -> int:
        window = self._find_current(key)
        return window.used if window else 0

    def get_expiry(self, key: str) -> float:
        window = self._find_current(key)
        return window.ends if window else time.monotonic()

    def clear(self, key: str) -> None:
        self.by_key.pop(key, None)

    def reset(self) -> int:
        count = len(self.by_key)
        self.by_key.clear()
        return count

    def check(self) -> bool:
        return True

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return ()

    def _find_current(self, key: str) -> _Window | None:
        window = self.by_key.get(key)
        return window if window and window.ends > time.monotonic() else None

    def _evict(self) -> None:
        """Remove up to two ended windows for each new one, so that no request has to scan many."""
        for _ in range(2):
            oldest = next(iter(self.by_key))
            if len(self.by_key) > MAX_WINDOWS or self._find_current(oldest) is None:
                del self.by_key[oldest]
