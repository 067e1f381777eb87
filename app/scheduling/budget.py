"""Budgets: limits the bytes or pixels that all requests together hold.

Knows nothing of what is counted. All methods may be called from any thread.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from prometheus_client import Gauge

from app.errors import Overloaded


class ShareEnded(Exception):
    """The request is over: work that still runs for it should stop, for its result is unused."""


def leaves_room(amount: int, *, held: int, limit: int) -> bool:
    """Return whether the amount is at most half of what is free."""
    return 2 * amount <= limit - held


class Held(Protocol):
    """Something that work keeps while it runs, such as a `Share`."""

    def keep(self) -> None: ...
    def let_go(self) -> None: ...


class Budget:
    """An amount that all requests share.

    A request may take at most half of what is free at a time, so that any number of large requests
    leave room for small ones. A request that is alone may even exceed the whole budget, because it
    would otherwise be refused each time; its own limits bound it.
    """

    def __init__(self, limit: int, *, unit: str, reason: str, gauge: Gauge) -> None:
        """`unit` and `reason` appear in errors and metrics; `gauge` shows the amount held."""
        self.limit = limit
        self.unit = unit
        self.reason = reason
        self._gauge = gauge
        self._held = 0
        self.lock = threading.Lock()

    @contextmanager
    def share(self, *, on_free: Callable[[], None] = lambda: None) -> Iterator["Share"]:
        """Open the share of one request, which is over at the end of the block.

        The share is released at the end of the block, or at the last `let_go` of work that outlives
        the request. `on_free` is called after that, from any thread.
        """
        share = Share(self, on_free)
        try:
            yield share
        finally:
            share.end()

    def require_room(self) -> None:
        """Raise Overloaded if the whole budget is held."""
        with self.lock:
            if self._held >= self.limit:
                raise self.make_overloaded(self._held)

    def count_fitting(self, amount: int) -> int:
        """Return how often an amount can be taken before one is refused, if nothing else is held.

        The last of n is at most half of what is free: 2 a <= limit - (n - 1) a. May return 0 or
        less for an amount that is allowed only because it is alone.
        """
        return self.limit // amount - 1

    def add(self, amount: int, *, own: int = 0) -> None:
        """Add to the amount held. The share that calls this has the lock, and holds `own`.

        Raises Overloaded if other requests hold something, and the amount is more than half of what
        is free.
        """
        others = self._held - own
        if amount > 0 and others > 0 and not leaves_room(amount, held=self._held, limit=self.limit):
            raise self.make_overloaded(others)
        self._held += amount
        self._gauge.set(self._held)

    def make_overloaded(self, held: int) -> Overloaded:
        """Return the error for a request that does not fit beside `held`."""
        return Overloaded(
            f"Requests already hold {held} {self.unit}, the limit is {self.limit}.",
            reason=self.reason,
            remedy="Try again in 1 s.",
            retry_after_s=1,
        )


class Share:
    """The amount that one request holds until it is over and all its work has ended.

    A decoder in C cannot be interrupted: it may still run after its client has disconnected, and
    the memory that it uses is counted until it returns.
    """

    def __init__(self, budget: Budget, on_free: Callable[[], None] = lambda: None) -> None:
        self.amount = 0
        self._budget = budget
        self._on_free = on_free
        self._keepers = 1
        self._has_ended = False

    def take(self, amount: int) -> None:
        """Hold more. Raises Overloaded, or ShareEnded if the request is over."""
        with self._budget.lock:
            if self._has_ended:
                raise ShareEnded
            if amount:
                self._budget.add(amount, own=self.amount)
                self.amount += amount

    def take_another(self, amount: int, *, limit: int) -> None:
        """Hold another of several parts; the first part may have any size.

        Raises Overloaded if all parts together would exceed the budget or `limit`, even if no other
        request holds anything. Raises what `take` raises.
        """
        with self._budget.lock:
            if self.amount and self.amount + amount > min(limit, self._budget.limit):
                raise self._budget.make_overloaded(self.amount)
        self.take(amount)

    def give_back(self, amount: int) -> None:
        """Hold less: a bound that was taken was larger than what is held."""
        with self._budget.lock:
            assert 0 <= amount <= self.amount, f"gives back {amount} of {self.amount}"
            self._budget.add(-amount)
            self.amount -= amount

    def end(self) -> None:
        """Mark the request as over; `take` and `keep` raise from now on. May be called again."""
        with self._budget.lock:
            if self._has_ended:
                return
            self._has_ended = True
        self.let_go()

    def keep(self) -> None:
        """Keep the share for work that begins now, until its `let_go`. Raises ShareEnded."""
        with self._budget.lock:
            if self._has_ended:
                raise ShareEnded
            self._keepers += 1

    def let_go(self) -> None:
        """End a `keep`; the last one releases the amount."""
        with self._budget.lock:
            self._keepers -= 1
            assert self._keepers >= 0, "let go more often than kept"
            if self._keepers:
                return
            self._budget.add(-self.amount)
            self.amount = 0
        self._on_free()
