"""How often a caller may call: `limits` counts by key, or by address where there are no keys.

Plain ASGI, before the body is read. Counts for this process alone; knows nothing of the queue,
which refuses by itself what it cannot answer.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from math import ceil

from limits import RateLimitItem
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooManyRequests
from app.http.paths import PUBLIC_PATHS
from app.http.problems import answer_error

MAX_WINDOWS = 2**15
"""Callers that one limit remembers, in some 10 MB. Of more, the oldest may begin anew."""


class RateLimit:
    """Middleware: a caller above a rate gets 429; the others are told what they have left."""

    def __init__(self, app: ASGIApp, *, rates: Sequence[RateLimitItem]) -> None:
        self.app = app
        self.quotas = [Quota(rate) for rate in rates]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self.app(scope, receive, send)
            return
        caller = counted_caller(scope)
        exhausted = self._take(caller)
        fields = self._fields(caller)

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        if exhausted:
            await answer_error(_too_many(exhausted, caller), scope)(
                scope, receive, send_with_fields
            )
        else:
            await self.app(scope, receive, send_with_fields)

    def _take(self, caller: str) -> list["Quota"]:
        """One request of each quota; where some are exhausted, those, and nothing of any."""
        exhausted = [quota for quota in self.quotas if quota.is_exhausted(caller)]
        if not exhausted:
            for quota in self.quotas:
                quota.use(caller)
        return exhausted

    def _fields(self, caller: str) -> list[tuple[bytes, bytes]]:
        """As draft-ietf-httpapi-ratelimit-headers-10 has them: what holds, what is left."""
        policy = ", ".join(quota.policy for quota in self.quotas)
        left = ", ".join(quota.left(caller) for quota in self.quotas)
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]


class Quota:
    """One rate and what its callers have used of it."""

    def __init__(self, rate: RateLimitItem) -> None:
        self.rate = rate
        self.text = f"{rate.amount} requests in {rate.get_expiry()} s"
        self._name = f'"{rate.amount}-per-{rate.get_expiry()}s"'
        self.policy = f"{self._name};q={rate.amount};w={rate.get_expiry()}"
        self._limiter = FixedWindowRateLimiter(Windows())

    def is_exhausted(self, caller: str) -> bool:
        return not self._limiter.test(self.rate, caller)

    def use(self, caller: str) -> None:
        self._limiter.hit(self.rate, caller)

    def left(self, caller: str) -> str:
        window = self._limiter.get_window_stats(self.rate, caller)
        return f"{self._name};r={window.remaining};t={self._seconds_until(window.reset_time)}"

    def retry_after_s(self, caller: str) -> int:
        return self._seconds_until(self._limiter.get_window_stats(self.rate, caller).reset_time)

    @staticmethod
    def _seconds_until(reset_time: float) -> int:
        return max(1, ceil(reset_time - time.monotonic()))


@dataclass(slots=True)
class _Window:
    ends: float
    used: int = 0


class Windows(Storage):
    """The newest MAX_WINDOWS windows of one rate, in the order in which they end.

    The library's own MemoryStorage keeps as many as there are addresses, and looks at all of them
    in a thread after every request: with 100 000 of them and 500 requests a second, half a core.
    This one belongs to the event loop and runs on the monotonic clock.
    """

    def __init__(self) -> None:
        super().__init__()
        # A dict would look through the gaps of all that went before, to find its oldest.
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        window = self._current(key)
        if window is None:
            self._windows.pop(key, None)
            window = self._windows[key] = _Window(ends=time.monotonic() + expiry)
            self._forget()
        window.used += amount
        return window.used

    def get(self, key: str) -> int:
        window = self._current(key)
        return window.used if window else 0

    def get_expiry(self, key: str) -> float:
        window = self._current(key)
        return window.ends if window else time.monotonic()

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def reset(self) -> int:
        count = len(self._windows)
        self._windows.clear()
        return count

    def check(self) -> bool:
        return True

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return ()

    def _current(self, key: str) -> _Window | None:
        window = self._windows.get(key)
        return window if window and window.ends > time.monotonic() else None

    def _forget(self) -> None:
        """Two at most for each that comes: what has ended goes, and nobody waits for it."""
        for _ in range(2):
            oldest = next(iter(self._windows))
            if len(self._windows) > MAX_WINDOWS or self._current(oldest) is None:
                del self._windows[oldest]


def counted_caller(scope: Scope) -> str:
    """The name of the key, or the address; of IPv6 the network of 64 bits, which one home has."""
    if "caller" in scope:
        return str(scope["caller"].name)
    host = scope["client"][0] if scope.get("client") else "unknown"
    return network_of(host) if ":" in host else host[:64]


def network_of(host: str) -> str:
    """An IPv6 address's 64 bits, or the IPv4 address that a socket for both shows as IPv6."""
    try:
        address = IPv6Address(host)
    except ValueError:  # a proxy may forward anything
        return "unknown"
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))


def _too_many(exhausted: Sequence[Quota], caller: str) -> TooManyRequests:
    seconds = max(quota.retry_after_s(caller) for quota in exhausted)
    rates = " and ".join(quota.text for quota in exhausted)
    return TooManyRequests(
        f"The limit for one caller is {rates}.",
        remedy=f"Come back in {seconds} s, and keep to what the RateLimit header leaves.",
        retry_after_s=seconds,
    )
