"""Finds out that the other end of a connection does not answer although it has work.

Timers exist only while it has work. Knows nothing of the work.
"""

import asyncio
from collections.abc import Callable


class Heartbeat:
    """Calls `ping` after one silent period, and `on_silent` after another."""

    def __init__(
        self,
        period_s: float,
        *,
        has_work: Callable[[], bool],
        ping: Callable[[], None],
        on_silent: Callable[[], None],
    ) -> None:
        self._period_s = period_s
        self._has_work = has_work
        self._ping = ping
        self._on_silent = on_silent
        self._timer: asyncio.TimerHandle | None = None
        self._is_silent = False
        self._has_pinged = False

    def expect(self) -> None:
        """Watch, because there is work now."""
        if self._timer is None:
            self._is_silent, self._has_pinged = True, False
            self._start()

    def hear(self) -> None:
        """Note that the other end has sent something."""
        self._is_silent, self._has_pinged = False, False

    def stop(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._period_s, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._has_work():
            return
        if self._has_pinged:
            self._on_silent()
            return
        if self._is_silent:
            self._has_pinged = True
            self._ping()
        self._is_silent = True
        self._start()
