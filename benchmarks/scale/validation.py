"""The simulation against what was measured and not fed into it.

One core: goodput and p99 against the offered load, with the arrivals of the measured run. Two
cores: closed loops of several callers, and an overload.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean, median
from typing import Any

from benchmarks.load import OVERLOAD, draw_arrivals
from benchmarks.report import Row
from benchmarks.scale.replica import Ending, Replica
from benchmarks.scale.simulation import MakeReplica, simulate_closed_loop, simulate_open_loop
from benchmarks.scale.stage_times import StageTimes, read_result

SEEDS = range(5)
CALLERS = (1, 4, 16)
CLOSED_LOOP_S = 60.0
OTHERS = "others' share of a core"


def make_maker(times: StageTimes, *, taken_cores: float = 0.0) -> MakeReplica:
    """`taken_cores` is what the caller and other processes used of the replica's cores."""
    limits = replace(times.limits, taken_cores=taken_cores)
    return lambda environment: Replica(environment, limits)


def validate_one_core(times: StageTimes) -> Iterator[Row]:
    """Simulate each measured load with its own arrivals and others; take means over seeds."""
    for row in read_result("curves")["rows"]:
        runs = [simulate_again(times, row, seed) for seed in SEEDS]
        goodput, p99_s = (mean(figures) for figures in zip(*runs, strict=True))
        yield {
            "load": row["load"],
            "offered/s": row["offered/s"],
            "requests": row["requests"],
            "others": row[OTHERS],
            "goodput/s": row["goodput/s"],
            "simulated/s": goodput,
            "ratio": goodput / row["goodput/s"],
            "p99 ms": row["p99 ms"],
            "simulated ms": 1000 * p99_s,
            "p99 ratio": 1000 * p99_s / row["p99 ms"],
        }


def simulate_again(times: StageTimes, row: Mapping[str, Any], seed: int) -> tuple[float, float]:
    """Goodput and p99 of a measured load, with the same arrivals."""
    load = simulate_open_loop(
        draw_arrivals(row["offered/s"], row["seconds"], row["seed"]),
        times.start_drawing(seed),
        make_replica=make_maker(times, taken_cores=row[OTHERS]),
    )
    return load.goodput, load.latency_s(0.99)


def summarise(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the medians over the loads that are the same part of the capacity."""
    for load in sorted({float(row["load"]) for row in rows}):
        same = [row for row in rows if row["load"] == load]
        figures = ("ratio", "p99 ratio")
        medians = {name: median(float(row[name]) for row in same) for name in figures}
        yield {"load": load, "runs": len(same), **medians}


def validate_two_cores(times: StageTimes) -> Iterator[Row]:
    """Closed loops of several callers, and an overload of three times the capacity."""
    document = read_result("server")
    measured = {row["figure"]: row["ours"] for row in document["rows"]}
    for callers in CALLERS:
        who = f"{callers} caller{'s' * (callers > 1)}"
        taken = measured[f"client's share of a core, {who}"]
        load = simulate_closed_loop(
            callers,
            CLOSED_LOOP_S,
            times.start_drawing(0),
            make_replica=make_maker(times, taken_cores=taken),
        )
        yield compare(who, "goodput/s", measured[f"images/s, {who}"], load.goodput)
        p99_ms = 1000 * load.latency_s(0.99)
        yield compare(who, "p99 ms", measured[f"p99 ms, {who}"], p99_ms)
    yield from validate_overload(times, measured, document["overload_seconds"])


def validate_overload(
    times: StageTimes, measured: Mapping[str, float], seconds: float
) -> Iterator[Row]:
    end = ": goodput, images/s"
    (offered,) = (name.removesuffix(end) for name in measured if name.endswith(end))
    rate = float(offered.split()[1])
    load = simulate_open_loop(
        draw_arrivals(rate, seconds, 0),
        times.start_drawing(0),
        make_replica=make_maker(
            times, taken_cores=measured[f"{offered}: client's share of a core"]
        ),
    )
    label = f"{OVERLOAD} times the capacity, {rate:.0f}/s"
    yield compare(label, "goodput/s", measured[offered + end], load.goodput)
    p99_ms = measured[f"{offered}: p99 of the answered, ms"]
    yield compare(label, "p99 ms", p99_ms, 1000 * load.latency_s(0.99))
    refused = measured[f"{offered}: share refused (503)"]
    yield compare(label, "share refused", refused, load.share(Ending.REFUSED))


def compare(load: str, figure: str, measured: float, simulated: float) -> Row:
    row = {"load": load, "figure": figure, "measured": measured, "simulated": simulated}
    return {**row, "ratio": simulated / measured}
