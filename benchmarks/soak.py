"""A long time of everything at once: is any answer lost or wrong, does the server grow?

Mixed traffic against a server in a process of its own: photos and broken images, callers who leave
at every stage, slow ones, overload, other weights (SIGHUP), and in the end SIGTERM under load. An
answer is right if it is, byte for byte, the one that its request got alone from the same weights;
that holds on the CPU, so the soak does not use a GPU.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.callers import FAILURES, Account, Callers, Judge, Outcome
from benchmarks.catalogue import Request, broken_requests, good_requests, photo_requests
from benchmarks.load import Address, Answer, ask_once, closed_loop, get_request
from benchmarks.report import RESULTS, Cell, table, write
from benchmarks.server import OVERLOAD, Program, asked, our_server
from benchmarks.watch import DESCRIPTORS, GROWS, Sample, Trend, Watch, draw
from model.weights import SHIPPED_WEIGHTS, read_metadata, read_weights, write_weights

RELOAD_TIMEOUT_S = 60
END_TIMEOUT_S = 60

SERVER = {"device": "cpu", "log_level": "warning", "log_format": "json"}


@dataclass(frozen=True)
class Plan:
    """How long and how much. `reload_every_s`: 0 for never."""

    seconds: float = 30 * 60
    sample_every_s: float = 1
    keeping: int = 2
    changing: int = 2
    pause_s: float = 0.1
    leaving: int = 2
    slow: int = 2
    slow_s: float = 5
    overload_every_s: float = 60
    overload_s: float = 5
    reload_every_s: float = 45
    max_queue: int = 64
    capacity_callers: int = 16
    capacity_s: float = 5
    last_callers: int = 4
    last_s: float = 2
    large: bool = True


SHORT = Plan(
    seconds=8, sample_every_s=0.2, slow_s=1, overload_every_s=3, overload_s=1,
    reload_every_s=1, max_queue=8, capacity_callers=4,
    capacity_s=1, last_s=0.5, large=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Requests:
    good: Sequence[Request]
    broken: Sequence[Request]
    photos: Sequence[Request]

    @property
    def all(self) -> list[Request]:
        return [*self.good, *self.broken, *self.photos]


@dataclass(slots=True)
class Report:
    """What came of it."""

    plan: Plan
    account: Account
    watch: Watch
    capacity: float = 0
    trends: Sequence[Trend] = ()
    overloads: list[tuple[float, float]] = field(default_factory=list)
    reloads: list[float] = field(default_factory=list)
    missed_reloads: int = 0
    exit_status: int | None = None
    errors: list[str] = field(default_factory=list)
    """Lines of the server's log."""

    def failures(self) -> list[str]:
        """Why the soak has failed, in words; empty where it has not."""
        lost, wrong = (self.account.of(outcome) for outcome in FAILURES)
        found = [f"{lost} requests lost"] if lost else []
        found += [f"{wrong} answers wrong"] if wrong else []
        found += self.account.complaints
        found += [f"{trend.name}: grown by {trend.growth:.3g}" for trend in self._growing()]
        if not self.account.of(Outcome.MASK):
            found.append("no mask at all")
        if self.missed_reloads:
            found.append(f"{self.missed_reloads} reloads did not come")
        if self.exit_status != 0:
            found.append(f"exit status {self.exit_status}")
        return found + [f"the server's log: {line}" for line in self.errors]

    def _growing(self) -> list[Trend]:
        return [trend for trend in self.trends if trend.verdict == GROWS]

    def figures(self) -> list[dict[str, Cell]]:
        values: dict[str, Cell] = {
            "minutes": self.plan.seconds / 60,
            "capacity, photos/s": self.capacity,
            f"overloads of {OVERLOAD} times that": len(self.overloads),
            "reloads": len(self.reloads),
            "exit status after SIGTERM": str(self.exit_status),
            "errors in the server's log": len(self.errors),
            "verdict": "failed" if self.failures() else "passed",
        }
        return [{"figure": name, "value": value} for name, value in values.items()]


def main() -> None:
    plan, quick = read_arguments()
    report = soak(plan)
    if quick:
        for rows in (report.figures(), report.account.rows(), trend_rows(report)):
            print(table(rows), end="\n\n")
    else:
        publish(report)
    if failures := report.failures():
        sys.exit("\n".join(f"error: {failure}" for failure in failures))


def read_arguments() -> tuple[Plan, bool]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, and nothing is written")
    parser.add_argument("--minutes", type=float, help="of mixed traffic")
    parser.add_argument(
        "--reload-every", type=float, metavar="S", help="seconds between two weights; 0: never"
    )
    given = parser.parse_args()
    plan = SHORT if given.quick else Plan()
    if given.minutes is not None:
        plan = replace(plan, seconds=60 * given.minutes)
    if given.reload_every is not None:
        plan = replace(plan, reload_every_s=given.reload_every)
    return plan, given.quick


def publish(report: Report) -> None:
    write(
        "soak",
        "A long time of everything at once",
        report.figures(),
        sections={"Requests": report.account.rows(), "The process": trend_rows(report)},
        plan=vars(report.plan),
        failures=report.failures(),
    )
    draw(
        RESULTS / "soak.png",
        report.watch.samples,
        spans=report.overloads,
        events=report.reloads,
    )


def trend_rows(report: Report) -> list[dict[str, Cell]]:
    return [trend.row() for trend in report.trends]


def soak(plan: Plan) -> Report:
    """Everything, from making the requests to the server's end."""
    requests = Requests(good_requests(large=plan.large), broken_requests(), photo_requests(8))
    with tempfile.TemporaryDirectory() as folder:
        files = two_weights(Path(folder))
        alone = answers_alone(files, requests.all)
        served = Path(folder) / "served.safetensors"
        shutil.copyfile(files[0], served)
        with our_server(weights=served, max_queue=plan.max_queue, **SERVER) as program:
            callers = Callers(program.address, Judge(alone), random.Random(0))
            return asyncio.run(Soak(plan, requests, files, served, program, callers).run())


def two_weights(folder: Path) -> list[Path]:
    """The shipped ones, and others with the classes turned by one: no mask is the same."""
    shipped = read_weights(SHIPPED_WEIGHTS)
    turned = {
        name: np.roll(array, 1, axis=0) if name.startswith("final_conv.") else array
        for name, array in shipped.tensors.items()
    }
    metadata = replace(shipped.metadata, recipe={"soak": "classes turned by one"})
    files = [folder / "shipped.safetensors", folder / "turned.safetensors"]
    shutil.copyfile(SHIPPED_WEIGHTS, files[0])
    write_weights(files[1], turned, metadata)
    return files


def answers_alone(
    files: Sequence[Path], requests: Sequence[Request]
) -> dict[Request, dict[str, Answer]]:
    """What each request gets with nobody beside it, by the digest of the weights."""
    alone: dict[Request, dict[str, Answer]] = {request: {} for request in requests}
    for file in files:
        digest = read_metadata(file).digest
        with our_server(weights=file, **SERVER) as program:
            documented = documented_statuses(program.address)
            for request in requests:
                answer = asyncio.run(ask_once(program.address, request.data))
                assert answer.status in documented, f"{request.name}: {answer.status}"
                assert answer.headers.get("x-weights-digest", digest) == digest
                alone[request][digest] = answer
    return alone


def documented_statuses(address: Address) -> set[int]:
    paths = json.loads(asked(address, get_request("/openapi.json")))["paths"]
    responses = paths["/v1/segment"]["post"]["responses"]
    return {int(status) for status in responses if status != "default"}


@dataclass(slots=True)
class Soak:
    """One server under all callers. Owns the report."""

    plan: Plan
    requests: Requests
    files: Sequence[Path]
    served: Path
    program: Program
    callers: Callers
    report: Report = field(init=False)

    def __post_init__(self) -> None:
        account = self.callers.account
        watch = Watch(self.program.pid, ended=lambda: account.ended)
        self.report = Report(self.plan, account, watch)

    async def run(self) -> Report:
        report, watch = self.report, self.report.watch
        before = watch.look()
        report.capacity = await self.measured_capacity()
        await self.for_a_while(self.everybody(), self.plan.seconds)
        report.trends = watch.trends(before, await self.at_rest(before))
        await self.end()
        return report

    async def measured_capacity(self) -> float:
        load = await closed_loop(
            self.program.address,
            [request.data for request in self.requests.photos],
            callers=self.plan.capacity_callers,
            seconds=self.plan.capacity_s,
        )
        assert set(load.statuses) == {HTTPStatus.OK}, f"statuses {load.statuses}"
        return load.throughput

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        plan, callers, requests = self.plan, self.callers, self.requests
        waits = (
            (plan.keeping, "keeps its connection", requests.good, True),
            (plan.changing, "opens new connections", requests.good, False),
            (1, "broken images, kept connection", requests.broken, True),
            (1, "broken images, new connections", requests.broken, False),
        )
        return [
            *(
                callers.wait(kind, asks, keep=keep, pause_s=plan.pause_s)
                for number, kind, asks, keep in waits
                for _ in range(number)
            ),
            *(callers.leave(requests.good, pause_s=plan.pause_s) for _ in range(plan.leaving)),
            *(callers.crawl(requests.good, seconds=plan.slow_s) for _ in range(plan.slow)),
            self.overload(),
            self.reload(),
            self.report.watch.run(plan.sample_every_s),
        ]

    async def for_a_while(
        self, everybody: Sequence[Coroutine[Any, Any, None]], seconds: float
    ) -> None:
        """They go on until the time is over; what they are at then is no request any more."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in everybody]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()

    async def overload(self) -> None:
        while True:
            await asyncio.sleep(self.plan.overload_every_s)
            started_s = self.report.watch.now_s
            await self.callers.arrive(
                "overload",
                self.requests.photos,
                rate=OVERLOAD * self.report.capacity,
                seconds=self.plan.overload_s,
            )
            self.report.overloads.append((started_s, self.report.watch.now_s))

    async def reload(self) -> None:
        """The other weights over the served file, at once as `mv` does it, then SIGHUP."""
        number = 0
        while self.plan.reload_every_s:
            await asyncio.sleep(self.plan.reload_every_s)
            number += 1
            file = self.files[number % 2]
            beside = self.served.with_suffix(".new")
            shutil.copyfile(file, beside)
            os.replace(beside, self.served)
            self.program.process.send_signal(signal.SIGHUP)
            try:
                await self.until_served(read_metadata(file).digest)
                self.report.reloads.append(self.report.watch.now_s)
            except TimeoutError:
                self.report.missed_reloads += 1

    async def until_served(self, digest: str) -> None:
        """Asks again and again: another process has no event that we could wait for."""
        async with asyncio.timeout(RELOAD_TIMEOUT_S):
            while True:
                answer = await ask_once(self.program.address, get_request("/v1/model"))
                if json.loads(answer.body).get("digest") == digest:
                    return
                await asyncio.sleep(0.05)

    async def at_rest(self, before: Sample) -> Sample:
        """All connections are closed here; the server still has to see that, and to finish."""
        for _ in range(100):
            await asyncio.sleep(0.1)
            after = self.report.watch.look()
            if after.values[DESCRIPTORS] <= before.values[DESCRIPTORS]:
                break
        return after

    async def end(self) -> None:
        """SIGTERM while there are callers; the server answers those it has begun with."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self.plan.last_callers):
                group.create_task(
                    self.callers.ask_until_the_end("asks until the end", self.requests.good)
                )
            await asyncio.sleep(self.plan.last_s)
            self.program.process.send_signal(signal.SIGTERM)
        self.report.exit_status = await asyncio.to_thread(self.program.process.wait, END_TIMEOUT_S)
        self.program.log.seek(0)
        self.report.errors = errors_in(self.program.log.read().decode())


def errors_in(log: str) -> list[str]:
    """Lines of a JSON log that are errors, or are no JSON."""
    return [line[:500] for line in log.splitlines() if _level(line) in ("error", "critical")]


def _level(line: str) -> str:
    try:
        entry: Mapping[str, str] = json.loads(line)
        return entry["level"]
    except (ValueError, KeyError, TypeError):
        return "critical"


if __name__ == "__main__":
    main()
