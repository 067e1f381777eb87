"""So much of something, bytes or pixels, that all requests together may hold.

Knows nothing of what it counts; may be asked from any thread.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from app.errors import Overloaded


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
    def share(self) -> Iterator["Share"]:
        """Of one request; what it took is given back at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            self.add(-share.amount)

    def add(self, amount: int, *, own: int = 0) -> None:
        """Raises Overloaded for more than the others leave; they hold all but `own`."""
        with self._lock:
            others = self._held - own
            if amount > 0 and others > 0 and self._held + amount > self.limit:
                raise Overloaded(
                    f"Requests hold {others} {self.unit} already, the limit is {self.limit}.",
                    reason=self.reason,
                    remedy="Try again in 1 s.",
                    headers={"Retry-After": "1"},
                )
            self._held += amount
            self._gauge.set(self._held)


class Share:
    """What one request holds."""

    def __init__(self, budget: Budget) -> None:
        self.amount = 0
        self._budget = budget

    def take(self, amount: int) -> None:
        """Raises Overloaded."""
        if amount:
            self._budget.add(amount, own=self.amount)
            self.amount += amount
