"""A process over time: memory, descriptors, threads, processor time; trends and a plot.

Reads Linux' /proc, because psutil has no peak memory and counts processor time in ticks of 10 ms.
Knows nothing of what the process does.
"""

import asyncio
import itertools
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.report import Row

MIB = 2**20

MIN_SECONDS = 300
"""In a shorter run, caches and pools that still fill would look like growth."""

WARM_UP_SHARE = 0.1
"""The share of the time that is left out at the start, while pools and the allocator fill."""

EDGE_SHARE = 0.25
"""Growth compares the median of this first share of the rest with that of its last share."""

RESIDENT, DESCRIPTORS, THREADS = "resident memory, MiB", "descriptors", "threads"

MAX_GROWTH = {RESIDENT: 24.0, DESCRIPTORS: 8.0, THREADS: 4.0}
"""More growth than this is a leak."""

GROWS = "GROWS"

ATTEMPTS = 3


class ProcessTree:
    """The kernel's figures of a process and, unless `children` is False, its descendants."""

    def __init__(self, pid: int, *, children: bool = True) -> None:
        self.pids = _find_descendants(pid) if children else [pid]

    def measure_resident_bytes(self) -> int:
        return sum(_read_status_bytes(pid, "VmRSS") for pid in self.pids)

    def measure_peak_bytes(self) -> int:
        """Return the largest resident memory since `reset_peak`, summed over the processes."""
        return sum(_read_status_bytes(pid, "VmHWM") for pid in self.pids)

    def reset_peak(self) -> None:
        for pid in self.pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): 5 resets VmHWM

    def count_descriptors(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids)

    def count_threads(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in self.pids)

    def measure_cpu_s(self) -> float:
        """Return the processor time so far, user and system."""
        # This is the clock id that clock_getcpuclockid(3) returns; it has nanoseconds.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids)


def _find_descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for thread in Path(f"/proc/{pid}/task").iterdir()
        for child in (thread / "children").read_text().split()
    ]
    return [pid, *(descendant for child in children for descendant in _find_descendants(child))]


def _read_status_bytes(pid: int, name: str) -> int:
    """Read a size from the process' status, such as VmRSS; 0 if it ended but is not reaped."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True, slots=True)
class Sample:
    """`ended` is the number of requests that had ended at that time."""

    at_s: float
    values: Mapping[str, float]
    ended: int


@dataclass(slots=True)
class Watch:
    """Samples of a process and its descendants under load."""

    pid: int
    count_ended: Callable[[], int]
    started: float = field(default_factory=time.perf_counter)
    samples: list[Sample] = field(default_factory=list)

    @property
    def now_s(self) -> float:
        return time.perf_counter() - self.started

    async def keep_sampling(self, period_s: float) -> None:
        while True:
            self.samples.append(self.take_sample())
            await asyncio.sleep(period_s)

    def take_sample(self) -> Sample:
        """Raises ProcessLookupError if the process has ended."""
        for _ in range(ATTEMPTS):
            with suppress(FileNotFoundError, ProcessLookupError):  # a child ended in between
                tree = ProcessTree(self.pid)
                values = {
                    RESIDENT: tree.measure_resident_bytes() / MIB,
                    DESCRIPTORS: float(tree.count_descriptors()),
                    THREADS: float(tree.count_threads()),
                }
                return Sample(self.now_s, values, self.count_ended())
        raise ProcessLookupError(f"process {self.pid} has ended")


def describe_trend(name: str, before: Sample, loaded: Sequence[Sample], after: Sample) -> Row:
    """Return one value's row: before, under and after the load, its growth, and a verdict."""
    at_s = np.array([sample.at_s for sample in loaded])
    values = np.array([sample.values[name] for sample in loaded])
    seconds = at_s[-1] - at_s[0]
    is_warm = at_s >= at_s[0] + WARM_UP_SHARE * seconds
    warm = values[is_warm]
    edge = max(1, round(EDGE_SHARE * len(warm)))
    growth = float(np.median(warm[-edge:]) - np.median(warm[:edge]))
    if growth <= MAX_GROWTH[name]:
        verdict = "flat"
    else:
        verdict = GROWS if seconds >= MIN_SECONDS else "too short to tell"
    return {
        "value": name,
        "start": before.values[name],
        "after warm-up": float(warm[0]),
        "end, at rest": after.values[name],
        "peak": max(sample.values[name] for sample in (before, *loaded, after)),
        "slope per hour": float(3600 * np.polyfit(at_s[is_warm], warm, 1)[0]),
        "growth": growth,
        "bound": MAX_GROWTH[name],
        "verdict": verdict,
    }


def plot(
    path: Path,
    samples: Sequence[Sample],
    *,
    spans: Sequence[tuple[float, float]],
    events: Sequence[float],
) -> None:
    """Draw memory, descriptors, threads and requests per second over time.

    `spans` are shaded, and `events` are vertical lines.
    """
    from matplotlib.figure import Figure  # its import takes a second

    figure = Figure(figsize=(10, 7), layout="constrained")
    at_s = [sample.at_s for sample in samples]
    rates = [(b.ended - a.ended) / (b.at_s - a.at_s) for a, b in itertools.pairwise(samples)]
    curves = {name: [sample.values[name] for sample in samples] for name in MAX_GROWTH}
    curves["requests ended per second"] = [math.nan, *rates]
    panels = figure.subplots(3, 1, sharex=True)
    for axes, name in zip(panels[[0, 1, 1, 2]], curves, strict=True):
        axes.plot(at_s, curves[name], lw=1, label=name)
    for axes in panels:
        for first, last in spans:
            axes.axvspan(first, last, color="0.9")
        for event in events:
            axes.axvline(event, color="C3", lw=0.5, alpha=0.5)
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    panels[0].set_title("grey: overload; red: other weights", loc="right", fontsize=9)
    panels[2].set_xlabel("seconds")
    figure.savefig(path, dpi=90)
