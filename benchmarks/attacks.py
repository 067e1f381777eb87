"""The most that an upload can cost, found by hill climbing over the fields of each format's header.

A fresh decoder process decodes each file, as in the server, with the default limits. Its processor
time and memory are measured. Knows nothing of the server.
"""

import random
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from app.codecs.decoder_process import DecoderProcess
from app.errors import RequestError
from app.settings import Settings
from benchmarks import report
from benchmarks.attack_files import KNOBS, Choices, make
from benchmarks.report import Row, publish, read_plan
from benchmarks.watch import ProcessTree
from model.scaling import content_size
from tests.app.corpus import picture, saved

SIDES = (512, 0)
"""Values of max_side; 0 does not scale."""


@dataclass(frozen=True)
class Cost:
    bytes: int
    seconds: float
    memory_bytes: int
    outcome: str
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Plan(report.Plan):
    seconds: Annotated[float, "of search for each format and goal"] = 60.0
    seed: Annotated[int, "of the search"] = 0


def main() -> None:
    plan = read_plan(Plan, "attacks", __doc__, quick={"seconds": 0.0})
    rows, tries = [], 0
    for kind in KNOBS:
        for goal in GOALS:
            (choices, cost), count = climb(kind, GOALS[goal], seconds=plan.seconds, seed=plan.seed)
            tries += count
            rows.append(describe(kind, goal, choices, cost))
            print(rows[-1], flush=True)
    publish("attacks", "The most that an upload can cost", rows, plan=plan, tries=tries)


GOALS: dict[str, Callable[[Cost], float]] = {
    "seconds": lambda cost: cost.seconds,
    "memory": lambda cost: cost.memory_bytes,
}


def describe(kind: str, goal: str, choices: Choices, cost: Cost) -> Row:
    return {
        "format": kind,
        "goal": goal,
        "file": " ".join(f"{name}={value}" for name, value in choices.items()),
        "bytes": cost.bytes,
        "processor, s": round(cost.seconds, 2),
        "ms a byte": round(1000 * cost.seconds / cost.bytes, 3),
        "memory, bytes a pixel": round(cost.memory_bytes / cost.pixels, 1) if cost.pixels else "",
        "outcome": cost.outcome,
    }


def climb(
    kind: str, goal: Callable[[Cost], float], *, seconds: float, seed: int
) -> tuple[tuple[Choices, Cost], int]:
    """Find the worst file; also returns the number of tries. Restarts at random from a summit."""
    rng, ends = random.Random(seed), time.monotonic() + seconds
    worst: tuple[Choices, Cost] | None = None
    tries = 0
    while worst is None or time.monotonic() < ends:
        here = {knob: rng.randrange(count) for knob, count in KNOBS[kind].items()}
        cost = measure(make(kind, here), SIDES[here["side"]])
        tries += 1
        for there in list_neighbours(kind, here, rng):
            if worst is not None and time.monotonic() >= ends:
                break
            tries += 1
            other = measure(make(kind, there), SIDES[there["side"]])
            if goal(other) > goal(cost):
                here, cost = there, other
        if worst is None or goal(cost) > goal(worst[1]):
            worst = here, cost
    return worst, tries


def list_neighbours(kind: str, choices: Choices, rng: random.Random) -> Iterator[Choices]:
    """All choices that differ in one knob, in random order."""
    turns = [
        (knob, value)
        for knob, count in KNOBS[kind].items()
        for value in range(count)
        if value != choices[knob]
    ]
    rng.shuffle(turns)
    for knob, value in turns:
        yield choices | {knob: value}


def measure(data: bytes, side: int) -> Cost:
    settings = Settings()
    if len(data) > settings.max_body_bytes:
        return Cost(len(data), 0, 0, "BodyTooLarge", 0)
    process, size = DecoderProcess(), (0, 0)

    def plan(stored: tuple[int, int]) -> tuple[int, int]:
        nonlocal size
        size = stored
        return content_size(stored, side)

    process.decode(saved(picture(), "PNG"), max_pixels=settings.max_pixels, plan=lambda size: size)
    tree = ProcessTree(process._popen.pid)
    tree.reset_peak()
    cpu_s, held_bytes = tree.measure_cpu_s(), tree.measure_peak_bytes()
    ended_s = measure_ended_children_s()
    received = 0
    try:
        decoded = process.decode(data, max_pixels=settings.max_pixels, plan=plan)
        received, outcome = decoded.pixels.nbytes, "{} x {}".format(*decoded.size)
    except RequestError as problem:
        outcome = type(problem).__name__
    memory_bytes = 0
    with suppress(OSError, AssertionError):  # it may have ended
        cpu_s, memory_bytes = (
            tree.measure_cpu_s() - cpu_s,
            tree.measure_peak_bytes() - held_bytes + received,
        )
    process.end()
    if process.ended_by is not None:
        cpu_s = measure_ended_children_s() - ended_s - cpu_s
    pixels = size[0] * size[1]
    return Cost(len(data), cpu_s, max(0, memory_bytes - len(data)), outcome, pixels)


def measure_ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
