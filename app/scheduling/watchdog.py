"""Notices work that does not end, and when it has to be given up.

It has timers only while work is under way. Knows nothing of what the work is.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

GRACE_S = 3
"""From stuck to given up: for a probe to see it, and for a process that was only suspended."""

log = structlog.get_logger("segmentation")


class Watchdog:
    """Of one event loop. `on_death` is called once, when stuck work has not ended in time.

    `on_change` is called when work may have become stuck, or may be no more.
    """

    def __init__(
        self,
        *,
        stuck_after_s: float,
        on_death: Callable[[], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._stuck_after_s = stuck_after_s
        self._on_death = on_death
        self._on_change = on_change
        self._stuck: set[object] = set()
        self._is_dead = False

    @property
    def is_content(self) -> bool:
        return not (self._stuck or self._is_dead)

    @contextmanager
    def watching(self, work: str, on_stuck: Callable[[], None]) -> Iterator[None]:
        """`on_stuck` is called if the block takes longer than work may take."""
        loop = asyncio.get_running_loop()
        watched = object()

        def bark() -> None:
            self._stuck.add(watched)
            log.critical("stuck", work=work, seconds=self._stuck_after_s)
            on_stuck()
            self._on_change()

        barks = loop.call_later(self._stuck_after_s, bark)
        ends = loop.call_later(self._stuck_after_s + GRACE_S, self.give_up, work)
        is_over = True
        try:
            yield
        except asyncio.CancelledError:  # who waited for it has gone; the work goes on
            is_over = False
            raise
        finally:
            barks.cancel()
            ends.cancel()
            if is_over:
                self._stuck.discard(watched)
            self._on_change()

    def give_up(self, work: str) -> None:
        """The work has ended for good, one way or the other."""
        if not self._is_dead:
            self._is_dead = True
            log.critical("dead", work=work)
            self._on_death()
