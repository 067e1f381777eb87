"""What it costs that the engine is in a process of its own: one worker with and without it.

The servers are loaded in turns, so that a slow period of the machine affects both. Processor time
is that of all processes of a server, and hardly depends on what else the machine does.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated

import httpx

from benchmarks import report
from benchmarks.connection import Request, upload_request
from benchmarks.load import LoadGenerator
from benchmarks.photos import describe_photos, make_photos
from benchmarks.process import OUR_PATH, Server, start_our_server
from benchmarks.report import Row, list_medians, publish, read_plan
from benchmarks.watch import ProcessTree

OWN, SHARED = "1 worker with its engine", "1 worker, 1 engine process"


@dataclass(frozen=True)
class Plan(report.Plan):
    photos: Annotated[int, "number of different photos"] = 8
    rounds: Annotated[int, "number of rounds"] = 5
    seconds: Annotated[float, "of each closed loop"] = 5.0
    callers: Sequence[int] = (1, 8)


QUICK = {"photos": 2, "rounds": 1, "seconds": 0.5, "callers": (1,)}


@dataclass(frozen=True, slots=True)
class Figures:
    """One closed loop."""

    throughput: float
    p50_ms: float
    cpu_ms: float
    """The server's processor time per image."""


def measure(server: Server, requests: Sequence[Request], plan: Plan, callers: int) -> Figures:
    processes = ProcessTree(server.process.pid)
    before_s = processes.measure_cpu_s()
    loop = LoadGenerator(server.address).run_closed_loop(
        requests, callers=callers, seconds=plan.seconds
    )
    load = asyncio.run(loop)
    cpu_s = processes.measure_cpu_s() - before_s
    return Figures(load.throughput, load.latency_ms(0.5), 1000 * cpu_s / len(load.results))


def list_rows(figures: Mapping[tuple[str, int], Sequence[Figures]], plan: Plan) -> list[Row]:
    """A row for each server: the medians of the rounds for each number of callers."""
    columns = {
        "images/s": attrgetter("throughput"),
        "p50 ms": attrgetter("p50_ms"),
        "CPU ms per image": attrgetter("cpu_ms"),
    }
    return list_medians("server", (OWN, SHARED), figures, callers=plan.callers, columns=columns)


def main() -> None:
    plan = read_plan(Plan, "sharing", __doc__, quick=QUICK)
    requests = [upload_request(OUR_PATH, photo) for photo in make_photos(plan.photos)]
    figures: dict[tuple[str, int], list[Figures]] = defaultdict(list)
    with (
        start_our_server(threads=1, device="cpu") as own,
        start_our_server(threads=1, device="cpu", engines=1) as shared,
    ):
        engine = httpx.get(f"{own.address.url}/v1/model", timeout=60).json()["engine"]
        for _ in range(plan.rounds):
            for callers in plan.callers:
                for name, server in ((OWN, own), (SHARED, shared)):
                    figures[name, callers].append(measure(server, requests, plan, callers))
    publish(
        "sharing",
        f"The engine in a process of its own ({engine})",
        list_rows(figures, plan),
        plan=plan,
        engine=engine,
        photos=describe_photos(plan.photos),
    )


if __name__ == "__main__":
    main()
