"""Closed loops of several servers in turns, so that a slow period of the machine affects all.

Knows nothing of the servers.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from benchmarks import report
from benchmarks.load import SETTLE_S
from benchmarks.report import Row

Found = TypeVar("Found")


@dataclass(frozen=True)
class Plan(report.Plan):
    photos: Annotated[int, "number of different photos"] = 8
    rounds: Annotated[int, "number of rounds"] = 5
    seconds: Annotated[float, "of each closed loop"] = 5.0
    callers: Sequence[int] = (1, 8)


QUICK = {"photos": 2, "rounds": 1, "seconds": 0.5, "callers": (1,)}


def take_turns(
    candidates: Mapping[str, Callable[..., Found]], plan: Plan
) -> dict[tuple[str, int], list[Found]]:
    """Run each candidate with each number of callers once in every round, after a pause.

    A candidate gets `callers` and `seconds`. Returns what it found, by its name and the callers.
    """
    found: dict[tuple[str, int], list[Found]] = defaultdict(list)
    for _ in range(plan.rounds):
        for callers in plan.callers:
            for name, run in candidates.items():
                time.sleep(SETTLE_S)
                found[name, callers].append(run(callers=callers, seconds=plan.seconds))
    return found


def list_medians(
    label: str,
    names: Sequence[str],
    found: Mapping[tuple[str, int], Sequence[Found]],
    *,
    columns: Mapping[str, Callable[[Found], float]],
) -> list[Row]:
    """A row for each name: for each number of callers, each column's median over the rounds."""
    numbers = dict.fromkeys(callers for _, callers in found)
    return [
        {label: name}
        | {
            f"{column}, {number} callers": statistics.median(map(read, found[name, number]))
            for number in numbers
            for column, read in columns.items()
        }
        for name in names
    ]
