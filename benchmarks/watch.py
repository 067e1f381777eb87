"""A process over time: its memory, descriptors and threads, whether they stay, and a picture.

Reads Linux' /proc; knows nothing of what the process does or why.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.memory import MIB, ProcessTree
from benchmarks.report import Cell

LEAST_S = 300
"""Shorter, and whatever fills in the first minutes looks like growth."""

WARM_UP_SHARE = 0.1
"""Of the time: pools fill, the allocator takes what it needs."""

EDGE_SHARE = 0.25
"""Of the time after the warm-up: what its first part and its last part have is compared."""

RESIDENT, DESCRIPTORS, THREADS = "resident memory, MiB", "descriptors", "threads"

MAX_GROWTH = {RESIDENT: 24.0, DESCRIPTORS: 8.0, THREADS: 4.0}
"""Between the medians of those two parts. More is a leak."""

GROWS = "GROWS"

LOOKS = 3

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    values: Mapping[str, float]
    ended: int
    """Requests that have ended until then."""


@dataclass(frozen=True, slots=True)
class Trend:
    """One value of the process, over the time."""

    name: str
    start: float
    warm: float
    end: float
    peak: float
    per_hour: float
    growth: float
    seconds: float

    @property
    def verdict(self) -> str:
        if self.growth <= MAX_GROWTH[self.name]:
            return "flat"
        return GROWS if self.seconds >= LEAST_S else "too short to tell"

    def row(self) -> dict[str, Cell]:
        return {
            "value": self.name,
            "start": self.start,
            "after warm-up": self.warm,
            "end, at rest": self.end,
            "peak": self.peak,
            "slope per hour": self.per_hour,
            "growth": self.growth,
            "bound": MAX_GROWTH[self.name],
            "verdict": self.verdict,
        }


@dataclass(slots=True)
class Watch:
    """Samples of a process and its children."""

    pid: int
    ended: Callable[[], int]
    started: float = field(default_factory=time.perf_counter)
    samples: list[Sample] = field(default_factory=list)
    """Under load."""

    @property
    def now_s(self) -> float:
        return time.perf_counter() - self.started

    async def run(self, period_s: float) -> None:
        """Until it is cancelled."""
        while True:
            self.samples.append(self.look())
            await asyncio.sleep(period_s)

    def look(self) -> Sample:
        """Raises ProcessLookupError when the process has ended."""
        for _ in range(LOOKS):
            with suppress(FileNotFoundError, ProcessLookupError):  # a child has ended meanwhile
                return self._look()
        raise ProcessLookupError(f"process {self.pid} has ended")

    def _look(self) -> Sample:
        tree = ProcessTree(self.pid)
        values = {
            RESIDENT: tree.resident_bytes() / MIB,
            DESCRIPTORS: float(tree.descriptors()),
            THREADS: float(tree.threads()),
        }
        return Sample(self.now_s, values, self.ended())

    def trends(self, before: Sample, after: Sample) -> list[Trend]:
        """`before` and `after` the load."""
        return [trend(name, before, self.samples, after) for name in MAX_GROWTH]


def trend(name: str, before: Sample, loaded: Sequence[Sample], after: Sample) -> Trend:
    values = np.array([sample.values[name] for sample in loaded])
    at_s = np.array([sample.at_s for sample in loaded])
    seconds = float(at_s[-1] - at_s[0])
    warm = at_s >= at_s[0] + WARM_UP_SHARE * seconds
    values, at_s = values[warm], at_s[warm]
    edge = max(1, round(EDGE_SHARE * len(values)))
    first, last = statistics.median(values[:edge]), statistics.median(values[-edge:])
    return Trend(
        name,
        start=before.values[name],
        warm=float(values[0]),
        end=after.values[name],
        peak=max(sample.values[name] for sample in (before, *loaded, after)),
        per_hour=float(SECONDS_PER_HOUR * np.polyfit(at_s, values, 1)[0]),
        growth=float(last - first),
        seconds=seconds,
    )


def draw(
    path: Path,
    samples: Sequence[Sample],
    *,
    spans: Sequence[tuple[float, float]],
    events: Sequence[float],
) -> None:
    """Memory, descriptors, threads and requests a second; `spans` are shaded, `events` lines."""
    from matplotlib.figure import Figure  # takes a second to import, and servers have none

    figure = Figure(figsize=(10, 7), layout="constrained")
    memory, counts, rate = figure.subplots(3, 1, sharex=True)
    at_s = [sample.at_s for sample in samples]
    for axes, names in ((memory, [RESIDENT]), (counts, [DESCRIPTORS, THREADS])):
        for name in names:
            axes.plot(at_s, [sample.values[name] for sample in samples], lw=1, label=name)
    rates = [(b.ended - a.ended) / (b.at_s - a.at_s) for a, b in itertools.pairwise(samples)]
    rate.plot(at_s[1:], rates, lw=1, label="requests ended, a second")
    for axes in (memory, counts, rate):
        for first, last in spans:
            axes.axvspan(first, last, color="0.9")
        for event in events:
            axes.axvline(event, color="C3", lw=0.5, alpha=0.5)
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    memory.set_title("grey: overload; red: other weights", loc="right", fontsize=9)
    rate.set_xlabel("seconds")
    figure.savefig(path, dpi=90)
