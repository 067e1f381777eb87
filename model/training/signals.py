"""Collects SIGINT and SIGTERM during a run, so that it stops between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.training.distributed import Group
from model.training.transfer import Receipt


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that they do not end the process in the middle of a step."""
    received: list[int] = []

    def collect(number: int, _: object) -> None:
        if number == signal.SIGINT and number in received:
            raise KeyboardInterrupt  # a second signal does not wait for the step
        received.append(number)

    previous = {n: signal.signal(n, collect) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StopVote:
    """Whether any process was asked to stop, so that all stop after the same step."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._last: Receipt | None = None

    def should_stop(self, received: list[int]) -> bool:
        """Return whether a signal has arrived. Every process must call it after each step.

        Several processes decide by what they had received a step earlier: a GPU that had to tell
        at once would have nothing left to do.
        """
        if self._group.world_size == 1:
            return bool(received)
        votes = torch.full((), len(received), device=self._group.device)
        last, self._last = self._last, Receipt(self._group.sum(votes))
        return last is not None and bool(last.read().item())
