"""Counts the requests of each caller in a Redis server that all processes share.

So the workers of one server, or many replicas, have one limit. While Redis does not answer, this
process counts alone, because a rate limit must not take the service down. Knows nothing of HTTP.
"""

import asyncio
import time
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import structlog
from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from prometheus_client import Counter

from app.access.counts import OwnCounts, Use

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

REDIS_PREFIX = "segmentation"
"""The prefix of every key in Redis; the library adds the caller and the rate."""

MAX_CONNECTIONS = 16
"""The number of connections of one process to Redis; a request waits for a free one."""

TIMEOUT_S = 0.5
"""The time that a request waits for Redis, which normally answers within a millisecond."""

PAUSE_S = 5
"""The time after a failure before Redis is asked again, so that few requests wait in vain."""

log = structlog.get_logger("segmentation")


class RateStorageError(Exception):
    """The package that the rate storage needs is missing, or the URL has a wrong option."""


class SharedCounts:
    """Counts the requests that all processes receive, in windows of a fixed length.

    Two processes may see the last free request of a rate at the same time. One of them gets it; the
    other one's request is refused, but still counts towards the other rates.
    """

    def __init__(self, uri: str, rates: Sequence[RateLimitItem], *, fallbacks: Counter) -> None:
        """Connects at the first request. Raises RateStorageError.

        `fallbacks` counts the requests that this process has counted alone.
        """
        self._rates = rates
        self._own = OwnCounts(rates)
        self._fallbacks = fallbacks
        self._is_reachable = True
        self._ask_again = 0.0
        """The time on the monotonic clock at which the next request asks Redis after a failure."""
        self._pool = _make_pool(uri)
        self._limiter = FixedWindowRateLimiter(
            RedisStorage(
                "redis://",  # of the pool; the library accepts fewer URLs than redis does
                wrap_exceptions=True,
                implementation="redispy",
                key_prefix=REDIS_PREFIX,
                connection_pool=self._pool,  # type: ignore[arg-type]  # as its docstring allows
            )
        )

    async def take(self, caller: str) -> Sequence[Use]:
        """Use one request of each rate, or of none if one of them is exhausted."""
        if self._is_reachable or time.monotonic() >= self._ask_again:
            self._ask_again = time.monotonic() + PAUSE_S  # while it fails, only this one waits
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    uses = await self._take(caller)
            except (StorageError, OSError, TimeoutError) as error:
                self._note_failure(error)
            else:
                self._note_success()
                return uses
        self._fallbacks.inc()
        return await self._own.take(caller)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def _take(self, caller: str) -> Sequence[Use]:
        free = [True] * len(self._rates)
        if len(free) > 1:  # for a single rate, `hit` tests and counts at once
            free = [await self._limiter.test(rate, caller) for rate in self._rates]
        if all(free):
            free = [await self._limiter.hit(rate, caller) for rate in self._rates]
        return [
            await self._describe(rate, caller, is_exhausted=not is_free)
            for rate, is_free in zip(self._rates, free, strict=True)
        ]

    async def _describe(self, rate: RateLimitItem, caller: str, *, is_exhausted: bool) -> Use:
        window = await self._limiter.get_window_stats(rate, caller)
        ends_in_s = max(1, ceil(window.reset_time - time.time()))
        return Use(rate, is_exhausted, window.remaining, ends_in_s)

    def _note_failure(self, error: Exception) -> None:
        self._ask_again = time.monotonic() + PAUSE_S
        if self._is_reachable:
            self._is_reachable = False
            reason = str(error) or f"no answer within {TIMEOUT_S} s"
            log.error("rate storage unreachable, this process counts alone", error=reason)

    def _note_success(self) -> None:
        if not self._is_reachable:
            self._is_reachable = True
            log.info("rate storage reachable again")


def _make_pool(uri: str) -> "ConnectionPool":
    try:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError as error:
        raise RateStorageError(
            "SEG_RATE_STORAGE needs the package redis: pip install redis"
        ) from error
    try:
        pool = BlockingConnectionPool.from_url(
            uri,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # a connection that a restarted server has closed
        )
        pool.connection_class(**pool.connection_kwargs)  # reads the options, connects to nothing
    except (TypeError, ValueError) as error:
        raise RateStorageError(f"the URL of SEG_RATE_STORAGE has a wrong part: {error}") from error
    return pool
