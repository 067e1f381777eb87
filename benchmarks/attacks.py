"""Find the upload of each format that costs most, by hill climbing over the fields of its header.

With --known, measure known files instead: the tests' corpus, and files that reach the limits. A
fresh decoder process decodes each file, as in the server, with the default limits. The cost is
processor time, memory and lines of log. Knows nothing of the server.
"""

import math
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
from benchmarks.attack_files import FIELDS, Choices, make, make_files_at_limits
from benchmarks.report import Row, publish, read_plan
from benchmarks.watch import MIB, ProcessTree
from model.scaling import find_content_size
from tests.app.corpus import corpus, picture, saved

SIDES = (512, 0)
"""The values of max_side that the search tries. 0 does not scale."""


@dataclass(frozen=True)
class Cost:
    """`pixels` is 0 for a file that was refused before its size was read."""

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
    known: Annotated[bool, "measure the tests' corpus and files at the limits instead"] = False


QUICK_FILES = 20  # of the corpus
CORPUS_SHOWN = 5  # files for each goal


def main() -> None:
    plan = read_plan(Plan, "attacks", __doc__, quick={"seconds": 0.0})
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
        for goal in GOALS:
            (choices, cost), count = climb(kind, GOALS[goal], seconds=plan.seconds, seed=plan.seed)
            tries += count
            rows.append(describe(kind, goal, name_choices(choices), cost))
            print(rows[-1], flush=True)
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


def climb(
    kind: str, goal: Callable[[Cost], float], *, seconds: float, seed: int
) -> tuple[tuple[Choices, Cost], int]:
    """The costliest file that was found, and the number of tries.

    Where no change of a single field costs more, the search starts again from random choices.
    """
    rng, ends = random.Random(seed), time.monotonic() + seconds
    worst: tuple[Choices, Cost] | None = None
    tries = 0
    while worst is None or time.monotonic() < ends:
        here = {field: rng.randrange(count) for field, count in FIELDS[kind].items()}
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
    """The choices that differ in one field, in random order."""
    changes = [
        (field, value)
        for field, count in FIELDS[kind].items()
        for value in range(count)
        if value != choices[field]
    ]
    rng.shuffle(changes)
    for field, value in changes:
        yield choices | {field: value}


def measure(data: bytes, side: int) -> Cost:
    """Decode the file in a fresh decoder process; `side` is its max_side."""
    limits = Settings()
    if len(data) > limits.max_body_bytes:
        return Cost(len(data), 0, 0, 0, PROBLEMS[BodyTooLarge].name, 0)
    size = (0, 0)

    def choose_size(stored: tuple[int, int]) -> tuple[int, int]:
        nonlocal size
        size = stored
        return find_content_size(stored, side)

    received = 0
    with counting_lines() as count_lines:
        process = DecoderProcess()
        first = saved(picture(), "PNG")
        process.decode(first, max_pixels=limits.max_pixels, choose_size=lambda size: size)
        meter = Meter(process)
        try:
            decoded = process.decode(data, max_pixels=limits.max_pixels, choose_size=choose_size)
            received, outcome = decoded.pixels.nbytes, "{} x {}".format(*decoded.size)
        except RequestError as problem:
            outcome = PROBLEMS[type(problem)].name
        seconds, memory_bytes = meter.end()
        lines = count_lines()
    memory_bytes = max(0, memory_bytes + received - len(data))
    return Cost(len(data), seconds, memory_bytes, lines, outcome, size[0] * size[1])


class Meter:
    """Measures what a decoder process uses from its creation to `end`."""

    def __init__(self, process: DecoderProcess) -> None:
        self._process = process
        self._tree = ProcessTree(process.pid)
        self._tree.reset_peak()
        self._cpu_s, self._held_bytes = self._tree.measure_cpu_s(), self._tree.measure_peak_bytes()
        self._ended_s = measure_ended_children_s()

    def end(self) -> tuple[float, int]:
        """End the process. Returns its processor time in seconds and its memory in bytes.

        If the file has already ended the process, its memory is unknown and counts as 0.
        """
        seconds, memory_bytes = 0.0, 0
        with suppress(OSError, AssertionError):  # the process may have ended already
            seconds = self._tree.measure_cpu_s() - self._cpu_s
            memory_bytes = self._tree.measure_peak_bytes() - self._held_bytes
        self._process.end()
        if self._process.ended_by is not None:
            seconds = measure_ended_children_s() - self._ended_s - self._cpu_s
        return seconds, memory_bytes


@contextmanager
def counting_lines() -> Iterator[Callable[[], int]]:
    """Count the lines that this process and its decoders write where a server writes its log."""
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


LOG_DESCRIPTORS = (1, 2)  # standard output and standard error


def measure_ended_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
