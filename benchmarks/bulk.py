"""`fcn segment`, `fcn bulk` and `fcn bulk --ray 1` over one folder of photos, in turns.

Each command computes in one process with one thread. Its start is a column of its own, because in
a long run it does not count. Knows nothing of what the commands do.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

import numpy as np

from benchmarks import report
from benchmarks.photos import describe_photos, make_photos
from benchmarks.process import REPOSITORY
from benchmarks.ray_cluster import start_ray_cluster
from benchmarks.report import Quick, Row, publish, read_plan
from benchmarks.watch import ProcessTree
from model.extras import require_packages
from model.predictor import open_predictor
from model.weights import SHIPPED_WEIGHTS

SAMPLE_S = 0.1
"""The time between two readings of the processes' clocks."""

SEGMENT, BULK, RAY = "fcn segment --local", "fcn bulk", "fcn bulk --ray 1"

OPTIONS = {SEGMENT: ["--local"], BULK: [], RAY: ["--ray", "1"]}


@dataclass(frozen=True)
class Plan(report.Plan):
    photos: Annotated[int, "number of photos in the folder", Quick(8)] = 100
    rounds: Annotated[int, "number of rounds", Quick(1)] = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of a command, from its start to its last mask."""

    start_s: float
    """The time until its first mask."""
    start_cpu_s: float
    """The processor time until then, of all processes."""
    throughput: float
    """Images per second after the first."""
    cpu_ms: float
    """The processor time per image after the first."""


COLUMNS = ("s to the first mask", "CPU s to the first mask", "images/s", "CPU ms per image")


@dataclass(slots=True)
class ProcessorTime:
    """The processor time of this process' descendants since the start, also of those that ended."""

    samples: list[tuple[float, float]] = field(default_factory=list)
    """The time of the day, and the seconds of all descendants together."""
    _before: dict[int, float] = field(default_factory=dict)
    _seconds: dict[int, float] = field(default_factory=dict)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Take samples during the block, on a thread."""
        self._read()
        self._before = dict(self._seconds)
        is_over = threading.Event()

        def keep_sampling() -> None:
            while not is_over.wait(SAMPLE_S):
                self.sample()

        self.sample()
        thread = threading.Thread(target=keep_sampling)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self.sample()

    def sample(self) -> None:
        self._read()
        self.samples.append((time.time(), sum(self._seconds.values()) - sum(self._before.values())))

    def read_at(self, time_s: float) -> float:
        """Return the processor time at a time of the day, between the samples around it."""
        return float(np.interp(time_s, *zip(*self.samples, strict=True)))

    def _read(self) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):  # a process ended in between
            for pid in ProcessTree(os.getpid()).pids[1:]:
                with suppress(OSError):
                    self._seconds[pid] = ProcessTree(pid, children=False).measure_cpu_s()


def find_figures(started_s: float, ends_s: Sequence[float], clock: ProcessorTime) -> Figures:
    """Return the figures of a run from the times of the day when its masks were written."""
    first, last = min(ends_s), max(ends_s)
    cpu_s, images = clock.read_at(last) - clock.read_at(first), len(ends_s) - 1
    return Figures(
        start_s=first - started_s,
        start_cpu_s=clock.read_at(first),
        throughput=images / (last - first),
        cpu_ms=1000 * cpu_s / images,
    )


def run(name: str, photos: Path, ray_address: str) -> Figures:
    """Run a command. Ends the program if it fails."""
    command, clock = name.split()[1], ProcessorTime()
    variables = {"SEG_DEVICE": "cpu", "SEG_THREADS": "1", "RAY_ADDRESS": ray_address}
    with tempfile.TemporaryDirectory() as folder:
        output = ["--output", folder] if command == "segment" else [folder]
        arguments = [command, str(photos), *output, *OPTIONS[name], "--quiet"]
        started_s = time.time()
        with clock.measuring():
            subprocess.run(
                [sys.executable, "-m", "app.cli", *arguments],
                cwd=REPOSITORY,
                env=os.environ | variables,
                check=True,
            )
        ends_s = [path.stat().st_mtime for path in Path(folder).glob("*.png")]
    return find_figures(started_s, ends_s, clock)


def list_rows(figures: Mapping[str, Sequence[Figures]]) -> list[Row]:
    """Return a row for each command: the medians of the rounds."""
    names = [entry.name for entry in fields(Figures)]

    def median(runs: Sequence[Figures], name: str) -> float:
        return statistics.median(getattr(one, name) for one in runs)

    return [
        {"command": command}
        | {column: median(runs, name) for column, name in zip(COLUMNS, names, strict=True)}
        for command, runs in figures.items()
    ]


def measure(plan: Plan, run: Callable[[str], Figures]) -> dict[str, list[Figures]]:
    """Run all commands once in each round."""
    figures: dict[str, list[Figures]] = defaultdict(list)
    for _ in range(plan.rounds):
        for name in OPTIONS:
            figures[name].append(run(name))
    return figures


def main() -> None:
    plan = read_plan(Plan, "bulk", __doc__)
    require_packages("ray", extra="ray")
    engine = open_predictor(SHIPPED_WEIGHTS, device="cpu", threads=1).engine.description
    with tempfile.TemporaryDirectory() as folder, start_ray_cluster(1, serves=False) as cluster:
        for number, photo in enumerate(make_photos(plan.photos)):
            (Path(folder) / f"{number:04}.jpg").write_bytes(photo)
        figures = measure(plan, lambda name: run(name, Path(folder), cluster.address))
    publish(
        "bulk",
        f"A folder of photos, segmented by one process ({engine})",
        list_rows(figures),
        plan=plan,
        engine=engine,
        files=describe_photos(plan.photos),
    )


if __name__ == "__main__":
    main()
