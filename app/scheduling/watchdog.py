"""The watchdog: reports work that is stuck, and gives it up if it stays stuck.

Time in which the work was ready to run and had no processor counts only in part: on a machine that
others keep busy, it is slow, not stuck. Work that waits for something else, as in a deadlock, needs
no processor, and all of its time counts. In an endless loop, the time counts in which it runs.

Timers exist only while work is running. Knows nothing of the work.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from app.scheduling.starvation import start_meter

GRACE_S = 3
"""The seconds from stuck to given up. Meanwhile a probe can see the state, and a process that was
only suspended can recover.
"""

SECONDS_PER_PIXEL = 1e-6
"""The time that a batch may take in addition for each pixel. PyTorch, the slowest engine on the
CPU, needed 0.35e-6 s for a pixel of the largest masks on one core of an EPYC; others have slower or
busier machines.
"""

MAX_FACTOR = 10
"""However busy the processors are, work is stuck after so many times its limit: without this, the
threads of a library that wait actively could hide a deadlock.
"""

CHECKS = 100
"""A limit is checked at most so many times while it passes."""

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
        start_meter: Callable[[], Callable[[], float]] = start_meter,
    ) -> None:
        """`start_meter` returns a function for the seconds that the work has been starved since."""
        self._stuck_after_s = stuck_after_s
        self._start_meter = start_meter
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
        watched = object()

        def report_stuck() -> None:
            self._stuck.add(watched)
            log.critical("stuck", work=work, seconds=limit_s)
            on_stuck()
            self._on_change()

        timer = _Timer(
            limit_s, self._start_meter, on_stuck=report_stuck, on_death=lambda: self.give_up(work)
        )
        is_over = True
        try:
            yield
        except asyncio.CancelledError:  # the task was cancelled; the work continues in its thread
            is_over = False
            raise
        finally:
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


class _Timer:
    """Calls `on_stuck` at the limit, and `on_death` after GRACE_S, unless it is cancelled.

    The meter starts after half of the limit, because it costs more than most work takes.
    """

    def __init__(
        self,
        limit_s: float,
        start_meter: Callable[[], Callable[[], float]],
        *,
        on_stuck: Callable[[], None],
        on_death: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._start_meter = start_meter
        self._on_stuck = on_stuck
        self._on_death = on_death
        self._start(limit_s / 2, self._measure)

    def cancel(self) -> None:
        self._handle.cancel()

    def _start(self, seconds: float, call: Callable[[], None]) -> None:
        self._handle = self._loop.call_later(seconds, call)

    def _measure(self) -> None:
        self._since = self._loop.time()
        self._measure_starved_s = self._start_meter()
        self._start(self._limit_s / 2, self._check)

    def _check(self) -> None:
        passed_s = self._loop.time() - self._since
        left_s = self._limit_s / 2 - max(0, passed_s - self._measure_starved_s())
        if left_s > 0 and passed_s < MAX_FACTOR * self._limit_s:
            self._start(max(left_s, self._limit_s / CHECKS), self._check)
            return
        self._start(GRACE_S, self._on_death)
        self._on_stuck()
