"""The watchdog: reports work that is stuck, and gives it up if it stays stuck.

Timers exist only while work is running. Knows nothing of the work.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

GRACE_S = 3
"""The seconds from stuck to given up. Meanwhile a probe can see the state, and a process that was
only suspended can recover.
"""

SECONDS_PER_PIXEL = 1e-6
"""The time that a batch may take in addition for each pixel. PyTorch, the slowest engine on the
CPU, needed 0.35e-6 s for a pixel of the largest masks on one core of an EPYC; others have slower or
busier machines.
"""

log = structlog.get_logger("segmentation")


class Watchdog:
    """Watches the work of one event loop.

    `on_death` is called once, if stuck work has not ended within GRACE_S. `on_change` is called
    when work may have become stuck or may have recovered.
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
    def is_healthy(self) -> bool:
        """Whether no work is stuck or given up."""
        return not (self._stuck or self._is_dead)

    @contextmanager
    def watching(
        self, work: str, on_stuck: Callable[[], None], *, pixels: int = 0
    ) -> Iterator[None]:
        """Watch the block, which computes so many pixels.

        `on_stuck` is called if it takes longer than `stuck_after_s` and SECONDS_PER_PIXEL for each.
        """
        limit_s = self._stuck_after_s + SECONDS_PER_PIXEL * pixels
        loop = asyncio.get_running_loop()
        watched = object()

        def report_stuck() -> None:
            self._stuck.add(watched)
            log.critical("stuck", work=work, seconds=limit_s)
            on_stuck()
            self._on_change()

        timers = (
            loop.call_later(limit_s, report_stuck),
            loop.call_later(limit_s + GRACE_S, self.give_up, work),
        )
        is_over = True
        try:
            yield
        except asyncio.CancelledError:  # the task was cancelled; the work continues in its thread
            is_over = False
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if is_over:
                self._stuck.discard(watched)
            self._on_change()

    def give_up(self, work: str) -> None:
        """Declare the process dead: the work cannot be recovered."""
        if not self._is_dead:
            self._is_dead = True
            log.critical("dead", work=work)
            self._on_death()
