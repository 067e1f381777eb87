"""Find the upload of each format that costs most, by a search over the fields of its header.

With --known, measure known files instead: the tests' corpus, and files that reach the limits. A
fresh decoder process decodes each file, as in the server, with the default limits. The cost is
processor time, memory and lines of log. Knows nothing of the server.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

from app.settings import Settings
from benchmarks import report
from benchmarks.attack_costs import Cost, measure
from benchmarks.attack_files import FIELDS, Choices, make, make_files_at_limits
from benchmarks.report import Quick, Row, publish, read_plan
from benchmarks.watch import MIB
from tests.app.corpus import corpus

SIDES = (512, 0)
"""The values of max_side that the search tries. 0 does not scale."""


@dataclass(frozen=True, kw_only=True)
class Plan(report.Plan):
    seconds: Annotated[float, "of search for each format and goal", Quick(0.0)] = 60.0
    seed: Annotated[int, "of the search"] = 0
    known: Annotated[bool, "measure the tests' corpus and files at the limits instead"] = False


QUICK_FILES = 20  # of the corpus
CORPUS_SHOWN = 5  # files for each goal


def main() -> None:
    plan = read_plan(Plan, "attacks", __doc__)
    if plan.known:
        tables = measure_known_files(plan)
        publish("attacks", "What known files cost", tables, plan=plan, variant="known")
    else:
        rows, tries = search(plan)
        publish("attacks", "The most that an upload can cost", rows, plan=plan, tries=tries)


def search(plan: Plan) -> tuple[list[Row], int]:
    """Search in each format for each goal. Returns the rows and the number of files tried."""
    rows, tries = [], 0
    for kind in FIELDS:
        searched = Search(kind, seed=plan.seed)
        for goal in GOALS:
            choices, cost = searched.run(GOALS[goal], seconds=plan.seconds)
            rows.append(describe(kind, goal, name_choices(choices), cost))
            print(rows[-1], flush=True)
        tries += len(searched.tried)
    return rows, tries


def measure_known_files(plan: Plan) -> dict[str, list[Row]]:
    """Measure files at the limits, and the corpus, of which the costliest are shown."""
    limits = Settings()
    side, size_bytes = math.isqrt(limits.max_pixels), limits.max_body_bytes - MIB
    if plan.quick:
        side, size_bytes = 500, MIB
    at_limits = [
        describe("limits", "", name, measure(data, limits.max_side))
        for name, data in make_files_at_limits(side=side, size_bytes=size_bytes)
    ]
    files = list(corpus().items())[: QUICK_FILES if plan.quick else None]
    costs = {name: measure(data, 0) for name, data in files}
    costliest = [
        describe("corpus", goal, name, costs[name])
        for goal, value in GOALS.items()
        for name in sorted(costs, key=lambda name: -value(costs[name]))[:CORPUS_SHOWN]
    ]
    return {"rows": at_limits, f"The costliest of the corpus ({len(costs)} files)": costliest}


GOALS: dict[str, Callable[[Cost], float]] = {
    "seconds": lambda cost: cost.seconds,
    "memory": lambda cost: cost.memory_bytes,
    "log lines": lambda cost: cost.log_lines,
}


def name_choices(choices: Choices) -> str:
    return " ".join(f"{name}={value}" for name, value in choices.items())


def describe(kind: str, goal: str, file: str, cost: Cost) -> Row:
    return {
        "format": kind,
        "goal": goal,
        "file": file,
        "bytes": cost.bytes,
        "processor, s": round(cost.seconds, 2),
        "ms a byte": round(1000 * cost.seconds / cost.bytes, 3),
        "memory, MiB": round(cost.memory_bytes / MIB),
        "memory, bytes a pixel": round(cost.memory_bytes / cost.pixels, 1) if cost.pixels else "",
        "log lines": cost.log_lines,
        "outcome": cost.outcome,
    }


class Search:
    """The search for the costliest files of one format. All goals share the files that it tries."""

    def __init__(self, kind: str, *, seed: int) -> None:
        self.kind = kind
        self.tried: dict[tuple[int, ...], tuple[Choices, Cost]] = {}
        self._rng = random.Random(f"{seed} {kind}")

    def run(self, goal: Callable[[Cost], float], *, seconds: float) -> tuple[Choices, Cost]:
        """Return the costliest file found: half of the time with random choices, half by climbing.

        Climbing tries the neighbours of the costliest file so far, which is another one after each
        success; without a neighbour that is not tried yet, random choices.
        """
        now = time.monotonic()
        middle, ends = now + seconds / 2, now + seconds
        while not self.tried or time.monotonic() < middle:
            self._try(self._draw())
        while time.monotonic() < ends:
            choices, _ = self._find_worst(goal)
            neighbours = list_neighbours(self.kind, choices, self._rng)
            fresh = (there for there in neighbours if tuple(there.values()) not in self.tried)
            self._try(next(fresh, None) or self._draw())
        return self._find_worst(goal)

    def _draw(self) -> Choices:
        return {field: self._rng.randrange(count) for field, count in FIELDS[self.kind].items()}

    def _try(self, choices: Choices) -> None:
        cost = measure(make(self.kind, choices), SIDES[choices["side"]])
        self.tried[tuple(choices.values())] = choices, cost

    def _find_worst(self, goal: Callable[[Cost], float]) -> tuple[Choices, Cost]:
        return max(self.tried.values(), key=lambda tried: goal(tried[1]))


def list_neighbours(kind: str, choices: Choices, rng: random.Random) -> Iterator[Choices]:
    """Yield the choices that differ in one field, in random order."""
    changes = [
        (field, value)
        for field, count in FIELDS[kind].items()
        for value in range(count)
        if value != choices[field]
    ]
    rng.shuffle(changes)
    for field, value in changes:
        yield choices | {field: value}


if __name__ == "__main__":
    main()
