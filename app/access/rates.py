"""Rate limits: the library `limits` counts requests by key, or by address if there are no keys.

Plain ASGI, before the body is read. Each process counts for itself. Knows nothing of the queue,
which has its own admission.
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
"""The number of callers that one rate remembers, in about 10 MB; the oldest is evicted."""


class RateLimit:
    """Middleware: answers 429 to a caller above a rate, and adds RateLimit headers."""

    def __init__(self, app: ASGIApp, *, rates: Sequence[RateLimitItem]) -> None:
        self.app = app
        self.quotas = [Quota(rate) for rate in rates]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self.app(scope, receive, send)
            return
        caller = identify_caller(scope)
        exhausted = self._take(caller)
        fields = self._build_fields(caller)

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        if exhausted:
            await answer_error(_make_too_many(exhausted, caller), scope)(
                scope, receive, send_with_fields
            )
        else:
            await self.app(scope, receive, send_with_fields)

    def _take(self, caller: str) -> list["Quota"]:
        """Use one request of each quota, or return the exhausted ones and use none."""
        exhausted = [quota for quota in self.quotas if quota.is_exhausted(caller)]
        if not exhausted:
            for quota in self.quotas:
                quota.use(caller)
        return exhausted

    def _build_fields(self, caller: str) -> list[tuple[bytes, bytes]]:
        """Return RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10)."""
        policy = ", ".join(quota.policy for quota in self.quotas)
        left = ", ".join(quota.format_left(caller) for quota in self.quotas)
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]


class Quota:
    """One rate, and how much of it each caller has used."""

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

    def format_left(self, caller: str) -> str:
        window = self._limiter.get_window_stats(self.rate, caller)
        return f"{self._name};r={window.remaining};t={self._count_seconds_until(window.reset_time)}"

    def find_retry_after_s(self, caller: str) -> int:
        return self._count_seconds_until(
            self._limiter.get_window_stats(self.rate, caller).reset_time
        )

    @staticmethod
    def _count_seconds_until(reset_time: float) -> int:
        return max(1, ceil(reset_time - time.monotonic()))


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
        # To find its oldest entry, a dict would scan the gaps of all deleted ones.
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        window = self._find_current(key)
        if window is None:
            self._windows.pop(key, None)
            window = self._windows[key] = _Window(ends=time.monotonic() + expiry)
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

    def _find_current(self, key: str) -> _Window | None:
        window = self._windows.get(key)
        return window if window and window.ends > time.monotonic() else None

    def _evict(self) -> None:
        """Remove up to two ended windows for each new one, so that no request scans many."""
        for _ in range(2):
            oldest = next(iter(self._windows))
            if len(self._windows) > MAX_WINDOWS or self._find_current(oldest) is None:
                del self._windows[oldest]


def identify_caller(scope: Scope) -> str:
    """Return the key's name or the address; for IPv6 the network of 64 bits, as one home has it."""
    if "caller" in scope:
        return str(scope["caller"].name)
    host = scope["client"][0] if scope.get("client") else "unknown"
    return find_network(host) if ":" in host else host[:64]


def find_network(host: str) -> str:
    """Return the 64-bit network of an IPv6 address, or the IPv4 address that is mapped to it."""
    try:
        address = IPv6Address(host)
    except ValueError:  # a proxy may forward anything
        return "unknown"
    return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))


def _make_too_many(exhausted: Sequence[Quota], caller: str) -> TooManyRequests:
    seconds = max(quota.find_retry_after_s(caller) for quota in exhausted)
    rates = " and ".join(quota.text for quota in exhausted)
    return TooManyRequests(
        f"The limit for one caller is {rates}.",
        remedy=f"Come back in {seconds} s, and keep to what the RateLimit header leaves.",
        retry_after_s=seconds,
    )
