"""Collects SIGINT and SIGTERM during a run, so that it stops between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.training.distributed import Group


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


def should_stop(received: list[int], group: Group) -> bool:
    """Whether any process was asked to stop, so that all stop after the same step."""
    if group.world_size == 1:
        return bool(received)
    return bool(group.sum(torch.tensor(len(received), device=group.device)).item())
