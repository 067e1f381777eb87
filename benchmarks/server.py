"""Our server compared with the naive one and with its own engine, also under overload.

Both servers run during the whole measurement and take turns, so that a slow period of the machine
affects both. Knows only the Server-Timing header of what happens inside a server.
"""

import asyncio
import io
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from statistics import mean, median
from typing import Annotated

import numpy as np
from PIL import Image

from app.settings import Settings
from benchmarks import report
from benchmarks.connection import Address, Request, get_request, send_once, upload_request
from benchmarks.load import OVERLOAD, SETTLE_S, run_closed_loop, run_open_loop
from benchmarks.photos import decode_photo, describe_photos, open_photos
from benchmarks.process import (
    NAIVE_PATH,
    OUR_PATH,
    start_naive_server,
    start_our_server,
    start_worker,
)
from benchmarks.report import Quick, publish, read_plan
from benchmarks.results import Load
from benchmarks.server_figures import Measurements
from model.engines.base import Array
from model.extras import require_packages
from model.predictor import Canvas, Predictor, open_predictor

OVERLOADS = 3
"""At most this many rounds have an overload."""

MIN_EQUAL = 0.999
"""The masks of both servers must agree on this share of the pixels."""


@dataclass(frozen=True)
class Plan(report.Plan):
    images: Annotated[Path | None, "folder of JPEG photos of 500 x 375 to send"] = None
    photos: Annotated[int, "number of different photos", Quick(4)] = 16
    rounds: Annotated[int, "number of rounds", Quick(1)] = 5
    seconds: Annotated[float, "of each closed loop", Quick(0.5)] = 5.0
    overload_seconds: Annotated[float, "of each overload", Quick(1)] = 20.0
    overload_timeout_s: Annotated[float, "seconds after which a caller leaves", Quick(2)] = 10.0
    callers: Annotated[Sequence[int], Quick((1, 4))] = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server and the requests that it gets."""

    address: Address
    requests: Sequence[Request]

    def run_closed_loop(self, callers: int, seconds: float) -> Load:
        time.sleep(SETTLE_S)
        return run_closed_loop(self.address, self.requests, callers=callers, seconds=seconds)

    def run_overload(self, plan: Plan, rate: float) -> Load:
        seconds, timeout_s = plan.overload_seconds, plan.overload_timeout_s
        return run_open_loop(
            self.address, self.requests, rate=rate, seconds=seconds, timeout_s=timeout_s
        )

    def fetch_mask(self, request: Request) -> Array:
        response = asyncio.run(send_once(self.address, request))
        return np.asarray(Image.open(io.BytesIO(response.body)))


def compare_masks(ours: Candidate, naive: Candidate) -> list[float]:
    """Return the share of each photo's pixels that have the same class from both servers."""
    pairs = zip(ours.requests, naive.requests, strict=True)
    return [float(np.mean(ours.fetch_mask(a) == naive.fetch_mask(b))) for a, b in pairs]


def take_rounds(
    plan: Plan, found: Measurements, ours: Candidate, naive: Candidate, photos: Sequence[bytes]
) -> None:
    """Run every closed loop once in each round.

    Our server's last loop comes last, just before the engine alone, because they are compared.
    """
    ping = replace(ours, requests=[get_request("/health/live")])
    with start_worker() as call:
        call(measure_engine, photos, 0)  # loads the engine and warms it up
        for _ in range(plan.rounds):
            for callers in plan.callers:
                for name, candidate in (("naive", naive), ("ours", ours)):
                    load = candidate.run_closed_loop(callers, plan.seconds)
                    found.loads[name, callers].append(load)
            time.sleep(SETTLE_S)
            found.engine.append(call(measure_engine, photos, plan.seconds))
            found.loads["ours", "ping"].append(ping.run_closed_loop(1, min(1, plan.seconds)))


def take_overloads(plan: Plan, found: Measurements, ours: Candidate, naive: Candidate) -> None:
    """Overload our server several times, then the naive one, which recovers too slowly, once.

    Before each overload of our server its peak is measured, because the machine's speed changes.
    After each one, a single caller measures how it recovers.
    """
    most = max(plan.callers)
    found.overload_rate = OVERLOAD * median(found.collect("ours", most))
    for _ in range(min(OVERLOADS, plan.rounds)):
        found.loads["ours", "peak"].append(ours.run_closed_loop(most, plan.seconds))
        found.loads["ours", "overload"].append(ours.run_overload(plan, found.overload_rate))
        found.loads["ours", "recovery"].append(ours.run_closed_loop(1, plan.seconds))
    time.sleep(SETTLE_S)
    found.loads["naive", "overload"].append(naive.run_overload(plan, found.overload_rate))


@cache
def open_engine(photos: Sequence[bytes]) -> tuple[Predictor, list[Canvas]]:
    """Return the server's engine, and the photos' canvases."""
    settings = Settings()
    predictor = open_predictor(
        settings.weights, engine=settings.engine, device=settings.device, threads=settings.threads
    )
    return predictor, [predictor.prepare(decode_photo(photo)) for photo in photos]


def measure_engine(photos: Sequence[bytes], seconds: float) -> list[float]:
    """Return images/s of one caller, and of as many as the engine accepts at once."""
    predictor, canvases = open_engine(photos)

    def predict(first: int, until: float) -> int:
        images = 0
        for canvas in cycle([*canvases[first:], *canvases[:first]]):
            predictor.predict([canvas])
            images += 1
            if time.perf_counter() >= until:
                break
        return images

    throughputs = []
    for callers in (1, predictor.engine.callers_at_once):
        started = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            images = sum(pool.map(partial(predict, until=started + seconds), range(callers)))
        throughputs.append(images / (time.perf_counter() - started))
    return throughputs


def main() -> None:
    plan = read_plan(Plan, "server", __doc__)
    require_packages("torch", "torchvision")  # for the naive server
    photos = open_photos(plan.photos, plan.images)
    # Photos are not scaled, because the naive server and the engine alone do not scale them.
    with start_our_server(max_side=0) as our, start_naive_server() as other:
        engine = our.ask_for_engine()
        ours, naive = (
            Candidate(server.address, [upload_request(path, photo) for photo in photos])
            for server, path in ((our, OUR_PATH), (other, NAIVE_PATH))
        )
        found = Measurements(plan.callers, compare_masks(ours, naive))
        take_rounds(plan, found, ours, naive, tuple(photos))
        take_overloads(plan, found, ours, naive)
    publish(
        "server",
        f"Our server ({engine}) and a naive one",
        found.list_rows(),
        plan=plan,
        engine=engine,
        photos=describe_photos(len(photos), plan.images),
        throughputs=found.collect_throughputs(),
        equal_pixels=found.equal,
    )
    if mean(found.equal) < MIN_EQUAL:
        sys.exit(f"error: the masks agree on less than {MIN_EQUAL} of the pixels")


if __name__ == "__main__":
    main()
