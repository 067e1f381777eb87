"""Our server against the naive one, against its own engine, alone and overloaded.

Both servers run all the time and are loaded in turns, so that a slow spell of the machine meets
both. Knows nothing of what happens inside a server but what its Server-Timing header tells.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import cycle
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from app.settings import PREFIX, Settings
from benchmarks.load import (
    NO_ANSWER,
    Address,
    Load,
    ask_once,
    closed_loop,
    get_request,
    open_loop,
    percentile,
    upload_request,
)
from benchmarks.photos import VOC_SIZE, made_photos, photos_from
from benchmarks.report import Cell, table, write
from model.engines.base import Array
from model.predictor import Canvas, Predictor, open_predictor

REPOSITORY = Path(__file__).parent.parent
HOST = "127.0.0.1"
START_TIMEOUT_S = 120

OUR_PATH = "/v1/segment"
NAIVE_PATH = "/predict"

OVERLOAD = 3
"""Times the measured capacity."""

MIN_EQUAL = 0.999
"""The project's fifth contract, on the masks that were sent."""

# An engine's threads may spin for a fifth of a second after their last work; the next candidate
# shall not pay for it.
SETTLE_S = 0.5

Row = Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Program:
    """A server in a process of its own. What it logs can be read when it has ended."""

    process: subprocess.Popen[bytes]
    address: Address
    seconds_to_ready: float
    log: IO[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    photos: Sequence[bytes]
    source: str
    callers: Sequence[int] = (1, 4, 16)
    rounds: int = 5
    seconds: float = 5
    overload_seconds: float = 20
    overload_timeout_s: float = 10

    @property
    def most_callers(self) -> int:
        return max(self.callers)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server and the requests that it gets."""

    address: Address
    requests: Sequence[bytes]


@dataclass(slots=True)
class Figures:
    """What the rounds measured, in order. Loads by number of callers; throughputs in images/s."""

    ours: dict[int, list[Load]] = field(default_factory=dict)
    naive: dict[int, list[Load]] = field(default_factory=dict)
    alone: list[float] = field(default_factory=list)
    alone_busy: list[float] = field(default_factory=list)
    ping: list[Load] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    our_overload: list[Load] = field(default_factory=list)
    recovery: list[Load] = field(default_factory=list)
    naive_overload: list[Load] = field(default_factory=list)
    overload_rate: float = 0
    equal: list[float] = field(default_factory=list)


def main() -> None:
    plan, quick = read_arguments()
    with (
        our_server() as ours,
        naive_server() as naive,
        engine_alone(plan) as measure_alone,
    ):
        engine = json.loads(asked(ours.address, get_request("/v1/model")))["engine"]
        ours_sent = Candidate(ours.address, [upload_request(OUR_PATH, p) for p in plan.photos])
        naive_sent = Candidate(naive.address, [upload_request(NAIVE_PATH, p) for p in plan.photos])
        figures = Figures(equal=equal_shares(ours_sent, naive_sent))
        for _ in range(plan.rounds):
            take_round(plan, figures, ours_sent, naive_sent, measure_alone)
        take_overload(plan, figures, ours_sent, naive_sent)
    report(plan, figures, engine=engine, quick=quick)


def read_arguments() -> tuple[Plan, bool]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, and nothing is written")
    parser.add_argument(
        "--images", type=Path,
        help=f"a folder of JPEG photos to send those of {VOC_SIZE[1]} x {VOC_SIZE[0]} pixels of",
    )  # fmt: skip
    parser.add_argument("--photos", type=int, default=16, help="different photos that are sent")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="of each load")
    parser.add_argument("--overload-seconds", type=float, default=Plan.overload_seconds)
    parser.add_argument(
        "--overload-timeout", type=float, default=Plan.overload_timeout_s,
        help="seconds after which a caller leaves without an answer",
    )  # fmt: skip
    given = parser.parse_args()
    count = 4 if given.quick else given.photos
    photos = photos_from(given.images, count) if given.images else made_photos(count)
    source = "a folder's" if given.images else "made from docs/images/cat.jpg"
    plan = Plan(
        photos,
        source,
        rounds=given.rounds,
        seconds=given.seconds,
        overload_seconds=given.overload_seconds,
        overload_timeout_s=given.overload_timeout,
    )
    if given.quick:
        plan = replace(
            plan, callers=(1, 4), rounds=1, seconds=0.5, overload_seconds=1, overload_timeout_s=2
        )
    return plan, given.quick


@contextmanager
def our_server(**variables: object) -> Iterator[Program]:
    """`python -m app`, ready; the caller's SEG_ variables hold, `variables` before them."""
    port = free_port()
    settings = {PREFIX + name.upper(): str(value) for name, value in variables.items()}
    environment = os.environ | settings | {f"{PREFIX}HOST": HOST, f"{PREFIX}PORT": str(port)}
    with _started(["-m", "app"], environment, port, "/health/ready") as program:
        yield program


@contextmanager
def naive_server() -> Iterator[Program]:
    port = free_port()
    arguments = ["-m", "benchmarks.naive_server", "--port", str(port)]
    with _started(arguments, os.environ, port, "/openapi.json") as program:
        yield program


def free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _started(
    arguments: Sequence[str], environment: Mapping[str, str], port: int, ready_path: str
) -> Iterator[Program]:
    """The program once `ready_path` answers 200; it is asked to stop when the block ends."""
    address = Address(HOST, port)
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=REPOSITORY, env=environment, stdout=log, stderr=log
        )
        try:
            asyncio.run(_ready(process, address, ready_path, log))
            yield Program(process, address, time.perf_counter() - started, log)
        finally:
            _stop(process)


async def _ready(
    process: subprocess.Popen[bytes], address: Address, path: str, log: IO[bytes]
) -> None:
    """Asks every few milliseconds: another process has no event that we could wait for."""
    async with asyncio.timeout(START_TIMEOUT_S):
        while not await _answers(address, path):
            if process.poll() is not None:
                log.seek(0)
                sys.exit(f"the server ended before it was ready:\n{log.read().decode()[-2000:]}")
            await asyncio.sleep(0.01)


async def _answers(address: Address, path: str) -> bool:
    try:
        return (await ask_once(address, get_request(path))).status == HTTPStatus.OK
    except (OSError, EOFError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:  # the naive one, with all that it was sent in the overload
        process.kill()
        process.wait()


def asked(address: Address, request: bytes) -> bytes:
    """The body of a good answer."""
    answer = asyncio.run(ask_once(address, request))
    assert answer.status == HTTPStatus.OK, f"{address} answered {answer.status}: {answer.body!r}"
    return answer.body


def equal_shares(ours: Candidate, naive: Candidate) -> list[float]:
    """Of each photo, the share of pixels that have the same class from both servers."""
    pairs = zip(ours.requests, naive.requests, strict=True)
    return [
        float((served_mask(ours.address, a) == served_mask(naive.address, b)).mean())
        for a, b in pairs
    ]


def served_mask(address: Address, request: bytes) -> Array:
    return np.asarray(Image.open(io.BytesIO(asked(address, request))))


@contextmanager
def engine_alone(plan: Plan) -> Iterator[Callable[[float], list[float]]]:
    """A process with the server's engine and canvases that are ready: seconds to images/s.

    Of one caller, and of as many as the engine takes.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_run_engine, args=(there, plan.photos))
    child.start()
    there.close()  # so that the end of the child is the end of what it says

    def measure(seconds: float) -> list[float]:
        here.send(seconds)
        throughputs: list[float] = here.recv()
        return throughputs

    try:
        measure(0)  # it is loaded and warm when it answers
        yield measure
    finally:
        here.close()
        child.join()


def _run_engine(pipe: Pipe, photos: Sequence[bytes]) -> None:
    """In the child: the throughputs of one caller and of as many as the engine takes."""
    settings = Settings()
    predictor = open_predictor(
        settings.weights, engine=settings.engine, device=settings.device, threads=settings.threads
    )
    canvases = [predictor.prepare(np.asarray(Image.open(io.BytesIO(p)))) for p in photos]
    callers = predictor.engine.callers_at_once
    for seconds in _received(pipe):
        pipe.send([images_per_s(predictor, canvases, n, seconds / 2) for n in (1, callers)])


def _received(pipe: Pipe) -> Iterator[float]:
    with suppress(EOFError):
        while True:
            yield pipe.recv()


def images_per_s(
    predictor: Predictor, canvases: Sequence[Canvas], callers: int, seconds: float
) -> float:
    """Each caller one image after the other, and one image at least."""
    started = time.perf_counter()

    def call(first: int) -> int:
        canvas = cycle([*canvases[first:], *canvases[:first]])
        images = 0
        while not images or time.perf_counter() - started < seconds:
            predictor.predict([next(canvas)])
            images += 1
        return images

    with ThreadPoolExecutor(callers) as pool:
        images = sum(pool.map(call, range(callers)))
    return images / (time.perf_counter() - started)


def take_round(
    plan: Plan,
    figures: Figures,
    ours: Candidate,
    naive: Candidate,
    measure_alone: Callable[[float], list[float]],
) -> None:
    """Every load once; ours last, so that the engine alone follows it at once."""
    for callers in plan.callers:
        for candidate, loads in ((naive, figures.naive), (ours, figures.ours)):
            load = take_load(candidate, callers, plan.seconds)
            loads.setdefault(callers, []).append(load)
    time.sleep(SETTLE_S)
    one_caller, busy = measure_alone(2 * plan.seconds)
    figures.alone.append(one_caller)
    figures.alone_busy.append(busy)
    ping = replace(ours, requests=[get_request("/health/live")])
    figures.ping.append(take_load(ping, 1, min(1, plan.seconds)))


def take_load(candidate: Candidate, callers: int, seconds: float) -> Load:
    time.sleep(SETTLE_S)
    return asyncio.run(
        closed_loop(candidate.address, candidate.requests, callers=callers, seconds=seconds)
    )


def take_overload(plan: Plan, figures: Figures, ours: Candidate, naive: Candidate) -> None:
    """Ours in each round, then the naive one once: it would need too long to recover.

    Before each of ours its peak, for the machine's pace changes; behind it a lone caller.
    """
    capacity = statistics.median(load.throughput for load in figures.ours[plan.most_callers])
    figures.overload_rate = OVERLOAD * capacity

    def overload(candidate: Candidate) -> Load:
        return asyncio.run(
            open_loop(
                candidate.address,
                candidate.requests,
                rate=figures.overload_rate,
                seconds=plan.overload_seconds,
                timeout_s=plan.overload_timeout_s,
            )
        )

    for _ in range(min(3, plan.rounds)):
        figures.peak.append(take_load(ours, plan.most_callers, plan.seconds).throughput)
        figures.our_overload.append(overload(ours))
        time.sleep(SETTLE_S)
        figures.recovery.append(
            asyncio.run(closed_loop(ours.address, ours.requests, callers=1, seconds=plan.seconds))
        )
    time.sleep(SETTLE_S)
    figures.naive_overload = [overload(naive)]


def report(plan: Plan, figures: Figures, *, engine: str, quick: bool) -> None:
    equal = statistics.mean(figures.equal)
    all_rows = rows(plan, figures, equal)
    if quick:
        print(table(all_rows))
    else:
        write(
            "server",
            f"Our server ({engine}) and a naive one",
            all_rows,
            engine=engine,
            photos=f"{len(plan.photos)} of {VOC_SIZE[1]} x {VOC_SIZE[0]}, {plan.source}",
            rounds=plan.rounds,
            seconds=plan.seconds,
            overload_seconds=plan.overload_seconds,
            overload_timeout_s=plan.overload_timeout_s,
            throughputs={
                "ours": {n: [x.throughput for x in loads] for n, loads in figures.ours.items()},
                "naive": {n: [x.throughput for x in loads] for n, loads in figures.naive.items()},
                "engine in a loop": figures.alone,
                "engine kept busy": figures.alone_busy,
            },
            equal_pixels=figures.equal,
        )
    if equal < MIN_EQUAL:
        sys.exit(f"error: the masks agree on {equal:.5f} of the pixels, {MIN_EQUAL} are required")


def rows(plan: Plan, figures: Figures, equal: float) -> list[Row]:
    found = [row("equal pixels, mean of the photos", f"{equal:.5f}")]
    found.append(row("equal pixels, worst photo", f"{min(figures.equal):.5f}"))
    for callers in plan.callers:
        found += closed_rows(callers, figures.ours[callers], figures.naive[callers])
    served = [load.throughput for load in figures.ours[plan.most_callers]]
    for how, alone in (("in a loop", figures.alone), ("kept busy", figures.alone_busy)):
        found.append(
            row(
                f"images/s served to {plan.most_callers} callers, against the engine {how}",
                statistics.median(served),
                alone=statistics.median(alone),
                ratio=median_ratio(served, alone),
            )
        )
    found += lone_rows(figures)
    return found + overload_rows(figures)


def row(figure: str, ours: Cell, *, naive: Cell = "", alone: Cell = "", ratio: Cell = "") -> Row:
    return {
        "figure": figure,
        "ours": ours,
        "naive": naive,
        "engine alone": alone,
        "ours / other": ratio,
    }


def closed_rows(callers: int, ours: Sequence[Load], naive: Sequence[Load]) -> list[Row]:
    """Medians over the rounds; a ratio is the median of the rounds' ratios."""
    figures: dict[str, Callable[[Load], float]] = {
        "images/s": lambda load: load.throughput,
        "p50 ms": lambda load: load.latency_ms(0.5),
        "p99 ms": lambda load: load.latency_ms(0.99),
        "client's share of a core": lambda load: load.client_share,
    }
    found = []
    for name, figure in figures.items():
        a, b = [figure(load) for load in ours], [figure(load) for load in naive]
        found.append(
            row(
                f"{name}, {callers} caller{'s' * (callers > 1)}",
                statistics.median(a),
                naive=statistics.median(b),
                ratio=median_ratio(a, b),
            )
        )
    return found


def median_ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, other, strict=True))


def lone_rows(figures: Figures) -> list[Row]:
    """What a lone request costs besides the work itself; all of it in milliseconds."""
    loads = figures.ours[1]
    samples = [x for load in loads for x in load.samples if x.status == HTTPStatus.OK]
    stages = [sample.stages_ms() for sample in samples]
    worked = [sum(s[name] for name in ("decode", "inference", "encode")) for s in stages]
    besides = [1000 * sample.seconds - w for sample, w in zip(samples, worked, strict=True)]
    found = [row("lone request, ms besides decode, inference and encode", percentile(besides, 0.5))]
    found += [
        row(f"lone request, ms of {name}", percentile([s[name] for s in stages], 0.5))
        for name in stages[0]
    ]
    ping = statistics.median(load.latency_ms(0.5) for load in figures.ping)
    return [*found, row("GET /health/live on the same terms, ms", ping)]


def overload_rows(figures: Figures) -> list[Row]:
    refused = HTTPStatus.SERVICE_UNAVAILABLE
    wanted: dict[str, Callable[[Load], float]] = {
        "goodput, images/s": lambda load: load.throughput,
        "share answered": lambda load: load.share(HTTPStatus.OK),
        "share refused (503)": lambda load: load.share(refused),
        "share without answer in time": lambda load: load.share(NO_ANSWER),
        "p50 of the answered, ms": lambda load: load.latency_ms(0.5),
        "p99 of the answered, ms": lambda load: load.latency_ms(0.99),
        "p50 of the refused, ms": lambda load: load.latency_ms(0.5, status=refused),
        "p99 of the refused, ms": lambda load: load.latency_ms(0.99, status=refused),
        "client's share of a core": lambda load: load.client_share,
    }
    offered = f"overload, {figures.overload_rate:.1f} images/s offered"
    goodput = [load.throughput for load in figures.our_overload]
    found = [row(f"{offered}: goodput against the peak", median_ratio(goodput, figures.peak))]
    before, after = (
        statistics.median(load.latency_ms(0.5) for load in loads)
        for loads in (figures.ours[1], figures.recovery)
    )
    found.append(
        row(
            f"{offered}: p50 of a lone caller {SETTLE_S:g} s after it, against before",
            after,
            ratio=after / before,
        )
    )
    return found + [
        row(
            f"{offered}: {name}",
            shown(statistics.median(figure(load) for load in figures.our_overload)),
            naive=shown(statistics.median(figure(load) for load in figures.naive_overload)),
        )
        for name, figure in wanted.items()
    ]


def shown(value: float) -> Cell:
    """NaN, the percentile of nothing, as an empty cell."""
    return "" if value != value else value


if __name__ == "__main__":
    main()
