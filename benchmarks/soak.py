"""A long run of mixed traffic: is a response lost or wrong, does the server's memory grow?

The server runs in its own process. The traffic is photos and broken images, clients that disconnect
at every moment, slow clients, overload, new weights (SIGHUP), and finally SIGTERM under load. A
response must equal, byte for byte, the one that its request gets, with the same weights, when the
server has no other. That holds on the CPU only, so the soak does not use a GPU.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from benchmarks import report
from benchmarks.callers import ask_until_refused, keep_leaving, keep_sending_slowly, shuffle_forever
from benchmarks.connection import get_request, send_once
from benchmarks.gauges import read_held
from benchmarks.load import OVERLOAD, LoadGenerator, draw_arrivals, run_until
from benchmarks.process import Server, find_errors, start_our_server
from benchmarks.report import Cell, Quick, Row, list_figures, publish, read_plan
from benchmarks.requests import (
    SERVER,
    Requests,
    ask_alone,
    make_judge,
    make_requests,
    write_two_weights,
)
from benchmarks.results import FAILURES, Outcome, count_outcomes
from benchmarks.watch import DESCRIPTORS, GROWS, MAX_GROWTH, Sample, Watch, describe_trend, plot
from model.extras import require_packages
from model.weights import read_metadata

RELOAD_TIMEOUT_S = 60
END_TIMEOUT_S = 60


@dataclass(frozen=True)
class Plan(report.Plan):
    minutes: Annotated[float, "of mixed traffic", Quick(8 / 60)] = 30.0
    reload_every_s: Annotated[float, "seconds between two reloads, 0 for none", Quick(1)] = 45.0
    sample_every_s: Annotated[float, Quick(0.2)] = 1
    callers: int = 2  # of each kind
    pause_s: float = 0.1
    slow_s: Annotated[float, Quick(1)] = 5
    overload_every_s: Annotated[float, Quick(3)] = 60
    overload_s: Annotated[float, Quick(1)] = 5
    max_queue: Annotated[int, Quick(8)] = 64
    capacity_callers: Annotated[int, Quick(4)] = 16
    capacity_s: Annotated[float, Quick(1)] = 5
    last_callers: int = 4
    last_s: Annotated[float, Quick(0.5)] = 2
    large: Annotated[bool, Quick(False)] = True
    stuck_after_s: Annotated[
        float, "SEG_STUCK_AFTER_S; increase it on a busy machine", Quick(120)
    ] = 10.0


@dataclass(slots=True)
class Soak:
    """One server, its callers, and the findings."""

    plan: Plan
    requests: Requests
    weights: Sequence[Path]
    served_weights: Path
    server: Server
    load: LoadGenerator
    watch: Watch
    capacity: float = 0
    trends: Sequence[Row] = ()
    overloads: list[tuple[float, float]] = field(default_factory=list)
    reloads: list[float] = field(default_factory=list)
    missed_reloads: int = 0
    has_reloaded: asyncio.Event = field(default_factory=asyncio.Event)
    held: Mapping[str, float] = field(default_factory=dict)
    """The gauges that were not at zero after the last caller had left."""
    exit_status: int | None = None
    errors: Sequence[str] = ()
    """The error lines of the server's log."""

    async def run(self) -> None:
        before = self.watch.take_sample()
        plan = self.plan
        load = await LoadGenerator(self.server.address).run_closed_loop(
            self.requests.photos, callers=plan.capacity_callers, seconds=plan.capacity_s
        )
        self.capacity = load.require_masks().throughput
        await run_until(self.wait_for_the_end(), self.list_tasks())
        after = await self.wait_at_rest(before)
        samples = self.watch.samples
        self.trends = [describe_trend(name, before, samples, after) for name in MAX_GROWTH]
        await self.end()

    async def wait_for_the_end(self) -> None:
        await asyncio.sleep(60 * self.plan.minutes)
        if self.plan.reload_every_s:  # a busy machine may not have reached the first reload
            await self.has_reloaded.wait()

    def list_tasks(self) -> list[Coroutine[Any, Any, None]]:
        plan, load, good, broken = self.plan, self.load, self.requests.good, self.requests.broken
        tasks = [
            self.keep_overloading(),
            self.keep_reloading(),
            self.watch.keep_sampling(plan.sample_every_s),
        ]
        polite = [
            ("broken images, kept connection", broken, True),
            ("broken images, new connections", broken, False),
        ]
        for _ in range(plan.callers):
            polite.append(("keeps its connection", good, True))
            polite.append(("opens new connections", good, False))
            tasks.append(keep_leaving(load, good, pause_s=plan.pause_s))
            tasks.append(keep_sending_slowly(load, good, seconds=plan.slow_s))
        for caller, requests, keep in polite:
            shuffled = shuffle_forever(load, requests)
            tasks.append(load.ask_in_turn(shuffled, caller=caller, keep=keep, pause_s=plan.pause_s))
        return tasks

    async def keep_overloading(self) -> None:
        while True:
            await asyncio.sleep(self.plan.overload_every_s)
            started_s, seed = self.watch.now_s, self.load.rng.randrange(2**32)
            due_s = draw_arrivals(OVERLOAD * self.capacity, self.plan.overload_s, seed)
            photos = shuffle_forever(self.load, self.requests.photos)
            await self.load.run_open_loop(due_s, photos, caller="overload")
            self.overloads.append((started_s, self.watch.now_s))

    async def keep_reloading(self) -> None:
        """Replace the weights file atomically, as `mv` does, and send SIGHUP."""
        number = 0
        while self.plan.reload_every_s:
            await asyncio.sleep(self.plan.reload_every_s)
            number += 1
            file = self.weights[number % 2]
            new = shutil.copyfile(file, self.served_weights.with_suffix(".new"))
            os.replace(new, self.served_weights)
            self.server.process.send_signal(signal.SIGHUP)
            try:
                await self.wait_until_served(read_metadata(file).digest)
                self.reloads.append(self.watch.now_s)
            except TimeoutError:
                self.missed_reloads += 1
            self.has_reloaded.set()

    async def wait_until_served(self, digest: str) -> None:
        """Poll, because another process offers no event to wait for."""
        async with asyncio.timeout(RELOAD_TIMEOUT_S):
            while True:
                response = await send_once(self.server.address, get_request("/v1/model"))
                if json.loads(response.body).get("digest") == digest:
                    return
                await asyncio.sleep(0.05)

    async def wait_at_rest(self, before: Sample) -> Sample:
        """Wait until the server has noticed that all connections are closed, and has finished."""
        for _ in range(100):
            await asyncio.sleep(0.1)
            after = self.watch.take_sample()
            self.held = await read_held(self.server.address)
            growth = after.values[DESCRIPTORS] - before.values[DESCRIPTORS]
            if not self.held and growth <= MAX_GROWTH[DESCRIPTORS]:  # idle decoders have pipes
                break
        return after

    async def end(self) -> None:
        """Send SIGTERM under load. The server must answer the requests that it has accepted."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.plan.last_callers):
                group.create_task(ask_until_refused(self.load, self.requests.good))
            await asyncio.sleep(self.plan.last_s)
            self.server.process.send_signal(signal.SIGTERM)
        self.exit_status = await asyncio.to_thread(self.server.process.wait, END_TIMEOUT_S)
        self.errors = find_errors(self.server.read_log())

    def list_failures(self) -> list[str]:
        """Why the soak failed, in words; empty if it passed."""
        counts = count_outcomes(self.load.results)[-1]
        found = [f"{counts[outcome]} {outcome}" for outcome in FAILURES if counts[outcome]]
        found += self.load.complaints
        grown = (trend for trend in self.trends if trend["verdict"] == GROWS)
        found += [f"{trend['value']}: grown by {trend['growth']:.3g}" for trend in grown]
        if not counts[Outcome.MASK]:
            found.append("no mask at all")
        if self.missed_reloads:
            found.append(f"{self.missed_reloads} reloads missing")
        found += [f"{name} is {value:g} at rest" for name, value in self.held.items()]
        if self.exit_status != 0:
            found.append(f"exit status {self.exit_status}")
        return found + [f"the server's log: {line}" for line in self.errors]


def run_soak(plan: Plan) -> Soak:
    requests = make_requests(large=plan.large)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_two_weights(Path(folder))
        alone = ask_alone(weights, requests)
        served = shutil.copyfile(weights[0], Path(folder) / "served.safetensors")
        settings = {"max_queue": plan.max_queue, "stuck_after_s": plan.stuck_after_s}
        with start_our_server(weights=served, **settings, **SERVER) as server:
            load = LoadGenerator(server.address, judge=make_judge(alone))
            watch = Watch(server.process.pid, count_ended=lambda: len(load.results))
            soak = Soak(plan, requests, weights, served, server, load, watch)
            asyncio.run(soak.run())
    return soak


def main() -> None:
    plan = read_plan(Plan, "soak", __doc__)
    require_packages("matplotlib")
    soak = run_soak(plan)
    failures = soak.list_failures()
    figures: dict[str, Cell] = {
        "minutes": plan.minutes,
        "capacity, photos/s": soak.capacity,
        f"overloads of {OVERLOAD} times that": len(soak.overloads),
        "reloads": len(soak.reloads),
        "exit status after SIGTERM": str(soak.exit_status),
        "errors in the server's log": len(soak.errors),
        "verdict": "failed" if failures else "passed",
    }
    tables = {
        "rows": list_figures(figures),
        "Requests": count_outcomes(soak.load.results),
        "The process": soak.trends,
    }
    publish("soak", "Everything at once for a long time", tables, plan=plan, failures=failures)
    if not plan.quick:
        path = report.RESULTS / "soak.png"
        plot(path, soak.watch.samples, spans=soak.overloads, events=soak.reloads)
    if failures:
        sys.exit("\n".join(f"error: {failure}" for failure in failures))


if __name__ == "__main__":
    main()
