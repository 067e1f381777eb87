"""The most that an upload can cost, found by search: each format's knobs are turned uphill.

Each try is decoded by a fresh decoder process, as the server does it, with the default limits, and
costs processor time, memory and lines of log. Knows nothing of the server.
"""

import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

from app.codecs.decoder_process import DecoderProcess
from app.errors import BodyTooLarge, RequestError
from app.http.problems import PROBLEMS
from app.settings import Settings
from benchmarks import report
from benchmarks.attack_files import KNOBS, Choices, make
from benchmarks.report import Row, publish, read_plan
from benchmarks.watch import ProcessTree
from model.scaling import content_size
from tests.app.corpus import corpus, picture, saved

SIDES = (512, 0)
"""Values of max_side; 0 does not scale."""


@dataclass(frozen=True)
class Cost:
    bytes: int
    seconds: float
    memory_bytes: int
    log_lines: int
    outcome: str
    pixels: int


@dataclass(frozen=True, kw_only=True)
class Plan(report.Plan):
    seconds: Annotated[float, "of search for each format and goal"] = 60.0
    seed: Annotated[int, "of the search"] = 0
    corpus: Annotated[bool, "measure every file of the tests' corpus, too"] = False


QUICK_FILES = 20

CORPUS_SHOWN = 5
"""This many files of the corpus are shown for each goal."""


def main() -> None:
    plan = read_plan(Plan, "attacks", __doc__, quick={"seconds": 0.0, "corpus": True})
    rows, tries = [], 0
    for kind in KNOBS:
        for goal in GOALS:
            (choices, cost), count = climb(kind, GOALS[goal], seconds=plan.seconds, seed=plan.seed)
            tries += count
            rows.append(describe(kind, goal, name_choices(choices), cost))
            print(rows[-1], flush=True)
    tables = {"rows": rows}
    if plan.corpus:
        tables["The corpus"] = measure_corpus(QUICK_FILES if plan.quick else None)
    publish("attacks", "The most that an upload can cost", tables, plan=plan, tries=tries)


def measure_corpus(count: int | None) -> list[Row]:
    """Measure so many files of the tests' corpus, and describe the costliest for each goal."""
    costs = {name: measure(data, 0) for name, data in list(corpus().items())[:count]}
    return [
        describe("corpus", goal, name, costs[name])
        for goal, value in GOALS.items()
        for name in sorted(costs, key=lambda name: -value(costs[name]))[:CORPUS_SHOWN]
    ]


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
        "memory, bytes a pixel": round(cost.memory_bytes / cost.pixels, 1) if cost.pixels else "",
        "log lines": cost.log_lines,
        "outcome": cost.outcome,
    }


def climb(
    kind: str, goal: Callable[[Cost], float], *, seconds: float, seed: int
) -> tuple[tuple[Choices, Cost], int]:
    """The worst that was found, and the number of tries. From a summit it starts elsewhere."""
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
    """Each differs in one knob, in random order."""
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
    limits = Settings()
    if len(data) > limits.max_body_bytes:
        return Cost(len(data), 0, 0, 0, PROBLEMS[BodyTooLarge].name, 0)
    size = (0, 0)

    def plan(stored: tuple[int, int]) -> tuple[int, int]:
        nonlocal size
        size = stored
        return content_size(stored, side)

    received = 0
    with counting_lines() as count_lines:
        process = DecoderProcess()
        process.decode(saved(picture(), "PNG"), max_pixels=limits.max_pixels, plan=lambda s: s)
        meter = Meter(process)
        try:
            decoded = process.decode(data, max_pixels=limits.max_pixels, plan=plan)
            received, outcome = decoded.pixels.nbytes, "{} x {}".format(*decoded.size)
        except RequestError as problem:
            outcome = PROBLEMS[type(problem)].name
        seconds, memory_bytes = meter.end()
        lines = count_lines()
    memory_bytes = max(0, memory_bytes + received - len(data))
    return Cost(len(data), seconds, memory_bytes, lines, outcome, size[0] * size[1])


class Meter:
    """Measures what a decoder process uses from now on."""

    def __init__(self, process: DecoderProcess) -> None:
        self._process = process
        self._tree = ProcessTree(process.pid)
        self._tree.reset_peak()
        self._cpu_s, self._held_bytes = self._tree.measure_cpu_s(), self._tree.measure_peak_bytes()
        self._ended_s = measure_ended_children_s()

    def end(self) -> tuple[float, int]:
        """End the process; return its seconds and its bytes, 0 if a file has ended it."""
        seconds, memory_bytes = 0.0, 0
        with suppress(OSError, AssertionError):  # it may have ended
            seconds = self._tree.measure_cpu_s() - self._cpu_s
            memory_bytes = self._tree.measure_peak_bytes() - self._held_bytes
        self._process.end()
        if self._process.ended_by is not None:
            seconds = measure_ended_children_s() - self._ended_s - self._cpu_s
        return seconds, memory_bytes


@contextmanager
def counting_lines() -> Iterator[Callable[[], int]]:
    """Count the lines that this process and its decoders write where a server has its log."""
    kept = [os.dup(descriptor) for descriptor in LOG_DESCRIPTORS]
    with tempfile.TemporaryFile() as file:

        def count() -> int:
            file.seek(0)
            return sum(1 for _ in file)

        sys.stdout.flush()
        for descriptor in LOG_DESCRIPTORS:
            os.dup2(file.fileno(), descriptor)
        try:
            yield count
        finally:
            sys.stdout.flush()
            for descriptor, old in zip(LOG_DESCRIPTORS, kept, strict=True):
                os.dup2(old, descriptor)
                os.close(old)


LOG_DESCRIPTORS = (1, 2)
"""Standard output and standard error."""


def measure_ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
