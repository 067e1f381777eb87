"""Simulated processor cores, which running threads share equally; an event loop goes first.

Knows nothing of requests. Times are simulated seconds.
"""

import heapq
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from simpy import Environment, Event

ROUNDING_S = 1e-9


class Cores:
    """All running threads advance at the same pace, none faster than a core.

    The threads' common progress is a clock of its own: a thread that starts when it shows p and
    needs s seconds ends when it shows p + s, however many threads come and go meanwhile.
    """

    def __init__(self, environment: Environment, count: int, *, taken: float = 0.0) -> None:
        """`taken` is the number of cores, in all, that other processes use."""
        self.environment = environment
        self.count = count
        self._available = count - taken
        self.used_s = 0.0
        """The seconds of a core that have been used."""
        self._reserved = 0
        self._threads = 0
        self._progress_s = 0.0
        self._since = environment.now
        self._ends: list[tuple[float, int, int, Event]] = []
        self._number = itertools.count()
        self._plan = 0

    def run(self, seconds: float, *, threads: int = 1) -> Event:
        """Return the event that so many threads have each run for `seconds`."""
        self._advance()
        ended = self.environment.event()
        end = (self._progress_s + seconds, next(self._number), threads, ended)
        heapq.heappush(self._ends, end)
        self._threads += threads
        self._plan_next()
        return ended

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Keep a core from the threads during the block, for work of a higher priority."""
        self._change_reserved(1)
        yield
        self._change_reserved(-1)

    def _change_reserved(self, change: int) -> None:
        self._advance()
        self._reserved += change
        self._plan_next()

    @property
    def _pace(self) -> float:
        """The part of a core that each thread has."""
        left = max(0.0, self._available - self._reserved)
        return min(self._available / self.count, left / self._threads) if self._threads else 0.0

    def _advance(self) -> None:
        passed_s = self.environment.now - self._since
        self._progress_s += passed_s * self._pace
        self.used_s += passed_s * (self._reserved + self._pace * self._threads)
        self._since = self.environment.now

    def _plan_next(self) -> None:
        """Wake when the next thread ends, unless something changes before."""
        self._plan += 1
        if self._ends and self._pace:
            left_s = max(0.0, self._ends[0][0] - self._progress_s)
            wake = self.environment.timeout(left_s / self._pace, value=self._plan)
            wake.callbacks.append(self._wake)

    def _wake(self, wake: Event) -> None:
        if wake.value != self._plan:
            return
        self._advance()
        while self._ends and self._ends[0][0] <= self._progress_s + ROUNDING_S:
            *_, threads, ended = heapq.heappop(self._ends)
            self._threads -= threads
            ended.succeed()
        self._plan_next()
