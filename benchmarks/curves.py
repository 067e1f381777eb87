"""Goodput and latency of one server against the offered load, and how long its stages take.

The stage times come from closed loops, the curves from open loops with Poisson arrivals. So a
simulation that is fed with the stage times can be compared with the curves (benchmarks.scale).
Knows of the inside of a server only its Server-Timing header and its processor time.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path
from statistics import mean
from typing import Annotated

from benchmarks import report
from benchmarks.connection import Request, send_once, upload_request
from benchmarks.cost import Measured, measure, measure_closed_loop
from benchmarks.load import SETTLE_S, run_open_loop
from benchmarks.photos import describe_photos, open_photos
from benchmarks.process import OUR_PATH, Server, start_our_server
from benchmarks.report import Quick, Row, format_table, publish, read_plan
from benchmarks.results import Result

STAGES = ("decode", "inference", "encode")
"""The stages that threads execute; the event loop and the caller take the rest of a request."""


@dataclass(frozen=True)
class Plan(report.Plan):
    images: Annotated[Path | None, "folder of JPEG photos of 500 x 375 to send"] = None
    photos: Annotated[int, "number of different photos", Quick(4)] = 64
    core: Annotated[
        int | None, "run the server on this core only, and the caller on the others"
    ] = None
    rounds: Annotated[int, "number of rounds", Quick(1)] = 2
    calibration_s: Annotated[float, "seconds of each closed loop", Quick(0.5)] = 6.0
    requests: Annotated[int, "number of requests of each load", Quick(10)] = 240
    least_s: Annotated[float, "seconds that each load takes at least", Quick(0.5)] = 20.0
    loads: Annotated[Sequence[float], Quick((0.4, 1.5))] = (0.2, 0.4, 0.6, 0.8, 1.2, 1.5)
    """The offered loads, as multiples of the capacity."""
    callers: Sequence[int] = (1, 16)
    """The numbers of callers of the closed loops. The throughput of the last is the capacity."""


@contextmanager
def start_server(core: int | None) -> Iterator[Server]:
    """Start our server on this core, and keep this process on the others; None: both use all."""
    cores = os.sched_getaffinity(0)
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        os.sched_setaffinity(0, cores if core is None else {core})
        server = stack.enter_context(start_our_server())  # it counts its cores as it starts
        os.sched_setaffinity(0, cores if core is None else cores - {core} or cores)
        yield server


def describe(measured: Measured) -> Row:
    load = measured.load
    return {
        "requests": len(load.results),
        "goodput/s": load.answered / load.wall_s,
        "refused": load.share(HTTPStatus.SERVICE_UNAVAILABLE),
        "p50 ms": load.latency_ms(0.5),
        "p99 ms": load.latency_ms(0.99),
        "server's CPU ms an answer": measured.cpu_ms_per_answer,
        "caller's share of a core": load.client_share,
        "others' share of a core": measured.others_cpu_s / load.wall_s,
    }


def describe_sample(result: Result) -> str:
    """Return the milliseconds of each stage and of the rest, as text: the file stays small."""
    stages = result.read_stages_ms()
    work = [stages[name] for name in STAGES]
    return " ".join(f"{ms:.2f}" for ms in (*work, 1000 * result.seconds - sum(work)))


@dataclass(slots=True)
class Curves:
    """The rows of open and closed loops, and the stages of requests that were alone."""

    plan: Plan
    server: Server
    requests: Sequence[Request]
    capacity: float = 0.0
    open: list[Row] = field(default_factory=list)
    closed: list[Row] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)

    def take_round(self, seed: int) -> None:
        """Run the closed loops, which give the capacity, and then the open loops."""
        for callers in self.plan.callers:
            measured = self.run_closed_loop(callers)
            self.closed.append({"callers": callers, **describe(measured)})
            if callers == 1:
                self.samples += map(describe_sample, measured.load.results)
        self.capacity = self.capacity or measured.load.throughput
        for share in self.plan.loads:
            self.open.append(self.run_open_loop(share, seed))
            print(format_table(self.open[-1:]), flush=True)

    def run_closed_loop(self, callers: int) -> Measured:
        time.sleep(SETTLE_S)
        measured = measure_closed_loop(
            self.server, self.requests, callers=callers, seconds=self.plan.calibration_s
        )
        measured.load.require_masks()
        return measured

    def run_open_loop(self, share: float, seed: int) -> Row:
        rate = share * self.capacity
        seconds = max(self.plan.least_s, self.plan.requests / rate)
        loop = partial(run_open_loop, rate=rate, seconds=seconds, seed=seed)
        time.sleep(SETTLE_S)
        measured = measure(self.server, partial(loop, self.server.address, self.requests))
        row = {"load": share, "offered/s": rate, "seconds": seconds, "seed": seed}
        return row | describe(measured)


def main() -> None:
    plan = read_plan(Plan, "curves", __doc__)
    photos = open_photos(plan.photos, plan.images)
    requests = [upload_request(OUR_PATH, photo) for photo in photos]
    with start_server(plan.core) as server:
        engine = server.ask_for_engine()
        answers = [asyncio.run(send_once(server.address, one)) for one in requests]
        print("The server is ready.", flush=True)
        curves = Curves(plan, server, requests)
        for number in range(plan.rounds):
            curves.take_round(seed=number)
    publish(
        "curves",
        f"Our server ({engine}) against the offered load",
        {"rows": curves.open, "Closed loops": curves.closed},
        plan=plan,
        engine=engine,
        photos=describe_photos(len(photos), plan.images),
        capacity=curves.capacity,
        request_bytes=mean(len(one.head) + len(one.body) for one in requests),
        answer_bytes=mean(len(one.body) for one in answers),
        sample_columns_ms=[*STAGES, "everything else"],
        samples_ms=curves.samples,
    )


if __name__ == "__main__":
    main()
