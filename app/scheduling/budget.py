"""So much of something, bytes or pixels, that all requests together may hold.

Knows nothing of what it counts; may be asked from any thread.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from app.errors import Overloaded


class ShareEnded(Exception):
    """Its request is over: what works for it still should stop. Nobody waits for an answer."""


class Budget:
    """One request alone may always go on, however much it takes: its own limits bound it."""

    def __init__(self, limit: int, *, unit: str, reason: str, gauge: Gauge) -> None:
        """`unit` is for messages, `reason` counts refusals, `gauge` shows what is held."""
        self.limit = limit
        self.unit = unit
        self.reason = reason
        self._gauge = gauge
        self._held = 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self, *, on_free: Callable[[], None] = lambda: None) -> Iterator["Share"]:
        """Of one request, which is over at the end of the block.

        What the share took is given back then, or when the last `keep` of work that outlives the
        request is let go; `on_free` is called after that, from any thread.
        """
        share = Share(self, on_free)
        try:
            yield share
        finally:
            share.end()

    def require_room(self) -> None:
        """Raises Overloaded where all of it is held."""
        with self._lock:
            if self._held >= self.limit:
                raise self._overloaded(self._held)

    def _add(self, amount: int, *, own: int = 0) -> None:
        """With the lock. Raises Overloaded for more than the others leave: all but `own`."""
        others = self._held - own
        if amount > 0 and others > 0 and self._held + amount > self.limit:
            raise self._overloaded(others)
        self._held += amount
        self._gauge.set(self._held)

    def _overloaded(self, held: int) -> Overloaded:
        return Overloaded(
            f"Requests hold {held} {self.unit} already, the limit is {self.limit}.",
            reason=self.reason,
            remedy="Try again in 1 s.",
            retry_after_s=1,
        )


class Share:
    """What one request holds, until it is over and all work that uses it has ended.

    A decoding in C cannot be interrupted: it may run when its caller has left, and what it uses is
    counted until it returns.
    """

    def __init__(self, budget: Budget, on_free: Callable[[], None] = lambda: None) -> None:
        self.amount = 0
        self._budget = budget
        self._on_free = on_free
        self._keepers = 1
        self._has_ended = False

    def take(self, amount: int) -> None:
        """Raises Overloaded, and ShareEnded once the request is over."""
        with self._budget._lock:
            if self._has_ended:
                raise ShareEnded
            if amount:
                self._budget._add(amount, own=self.amount)
                self.amount += amount

    def end(self) -> None:
        """The request is over: it takes nothing any more. May be called again."""
        with self._budget._lock:
            if self._has_ended:
                return
            self._has_ended = True
        self.let_go()

    def keep(self) -> None:
        """For work that begins; each `keep` needs its `let_go`. Raises ShareEnded."""
        with self._budget._lock:
            if self._has_ended:
                raise ShareEnded
            self._keepers += 1

    def let_go(self) -> None:
        """The last one gives back what was taken."""
        with self._budget._lock:
            self._keepers -= 1
            assert self._keepers >= 0, "let go more often than kept"
            if self._keepers:
                return
            self._budget._add(-self.amount)
            self.amount = 0
        self._on_free()
