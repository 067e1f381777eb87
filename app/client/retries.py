"""Decides whether a failed request is retried, and when. Knows nothing of what is sent."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
"""Too many requests, and the statuses of servers and proxies that start, stop or are overloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """How often to retry a request that the server could not accept, or that got no connection.

    Before a retry, the client waits as long as the server's `Retry-After` says, or else
    `backoff_s`, which doubles each time. A random part is added, so that many clients do not retry
    at the same time.
    """

    attempts: int = 5
    """The largest number of attempts, including the first."""
    max_wait_s: float = 60
    """The largest sum of the seconds that one call waits between its attempts."""
    backoff_s: float = 0.25
    draw: Callable[[], float] = random.random
    """Returns a number from 0 to below 1."""

    def choose_wait(
        self, attempt: int, *, waited_s: float, retry_after_s: float | None
    ) -> float | None:
        """Return the seconds to wait after a failed attempt, or None to give up.

        The first attempt is 1.
        """
        if attempt >= self.attempts:
            return None
        backoff_s = self.backoff_s * 2 ** (attempt - 1)
        if retry_after_s is None:
            wait_s = backoff_s * (1 + self.draw()) / 2
        else:
            wait_s = retry_after_s + backoff_s * self.draw()
        return wait_s if waited_s + wait_s <= self.max_wait_s else None


NO_RETRIES = Retries(attempts=1)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
