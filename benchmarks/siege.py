"""Hostile callers beside a good one: does it still get its answers, and is all memory released?

Eight hostile callers, in their own process, do as fast as they can what once stopped the server or
exhausted its memory. The good caller sends photos, one after the other, and a probe requests
`/health/live`. Afterwards the server must hold nothing. Knows nothing of the server's defences.
"""

import asyncio
import itertools
import math
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from multiprocessing import get_context
from typing import Annotated, Any

from benchmarks import report
from benchmarks.callers import Leaving, keep_leaving, keep_sending_slowly, shuffle_forever
from benchmarks.connection import Address, Request, get_request, post_request
from benchmarks.gauges import read_held
from benchmarks.hostile_callers import (
    keep_reading_slowly,
    make_costly_tiffs,
    make_hasty_jpegs,
    make_noise,
    make_slow_pictures,
    make_small_webp,
    make_thin_pngs,
)
from benchmarks.load import LoadGenerator, run_until
from benchmarks.photos import make_photos
from benchmarks.process import OUR_PATH, Server, find_errors, start_our_server
from benchmarks.report import Cell, Quick, Row, list_figures, publish, read_plan
from benchmarks.results import Result, find_quantile
from benchmarks.watch import MIB, ProcessTree
from tests.app.corpus import corpus, picture, saved

GOOD, PROBE = "good caller", "/health/live"
MAX_P99_S = 2.0
MAX_GROWTH_MIB = 64
"""The allowed growth of resident memory at rest. The allocator keeps some freed memory."""

REST_S = 60
"""The server has this long to release everything."""

NICENESS = 10
"""The hostile callers' priority. Real ones would use the cores of other machines; here they share
the good caller's. With its priority, or in its process, they would delay the good caller itself,
and its latencies would not be the server's.
"""


@dataclass(frozen=True, kw_only=True)
class Plan(report.Plan):
    minutes: Annotated[float, "of hostile callers", Quick(0.1)] = 10.0
    side: Annotated[int, Quick(500)] = 5000
    """Of the large pictures, in pixels; its square is the default SEG_MAX_PIXELS."""
    stuck_after_s: Annotated[float, "SEG_STUCK_AFTER_S; increase it on a busy machine"] = 10.0
    good_pause_s: float = 0.2
    probe_pause_s: float = 0.2


@dataclass(slots=True)
class Siege:
    plan: Plan
    server: Server
    load: LoadGenerator
    photos: Sequence[Request]
    resident_mib: dict[str, float] = field(default_factory=dict)
    held: Mapping[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        memory = ProcessTree(self.server.process.pid)
        alone = LoadGenerator(self.server.address)
        await alone.run_closed_loop(self.photos, callers=2, count=20)
        # Files of all formats start the decoders that the server keeps.
        await alone.run_closed_loop(make_corpus_requests(), callers=4, count=200)
        self.resident_mib["before"] = memory.measure_resident_bytes() / MIB
        memory.reset_peak()
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=os.nice, initargs=(NICENESS,)
        ) as process:
            hostile = asyncio.get_running_loop().run_in_executor(
                process, besiege, self.server.address, self.plan
            )
            await run_until(hostile, self.list_polite())
            self.load.results += hostile.result()
        if self.server.process.poll() is None:
            self.resident_mib["peak"] = memory.measure_peak_bytes() / MIB
        for _ in range(REST_S):
            await asyncio.sleep(1)
            if self.server.process.poll() is not None:
                return
            self.held = await read_held(self.server.address)
            self.resident_mib["at rest"] = memory.measure_resident_bytes() / MIB
            if not self.held and self.grown_mib <= MAX_GROWTH_MIB:
                break

    @property
    def grown_mib(self) -> float:
        return self.resident_mib.get("at rest", math.inf) - self.resident_mib["before"]

    def list_polite(self) -> list[Coroutine[Any, Any, None]]:
        load, plan = self.load, self.plan
        photos = shuffle_forever(load, self.photos)
        probes = itertools.repeat(get_request(PROBE))
        return [
            load.ask_in_turn(photos, caller=GOOD, keep=False, pause_s=plan.good_pause_s),
            load.ask_in_turn(probes, caller=PROBE, keep=False, pause_s=plan.probe_pause_s),
        ]


def besiege(address: Address, plan: Plan) -> list[Result]:
    """Run the eight hostile callers for the plan's minutes."""
    load = LoadGenerator(address)

    async def run() -> None:
        await run_until(asyncio.sleep(60 * plan.minutes), list_hostile(load, plan))

    asyncio.run(run())
    return load.results


def make_photo_requests() -> list[Request]:
    photos = (*make_photos(4), saved(picture(300, 400), "PNG"))
    return [post_request("photo", OUR_PATH, content=photo) for photo in photos]


def make_corpus_requests() -> list[Request]:
    return [post_request(name, OUR_PATH, content=data) for name, data in corpus().items()]


def list_hostile(load: LoadGenerator, plan: Plan) -> list[Coroutine[Any, Any, None]]:
    side = plan.side
    in_turn = {
        "costly TIFFs": list(make_costly_tiffs(side)),
        "thin PNGs": list(make_thin_pngs(side)),
        "deep PNGs and scans": list(make_slow_pictures(side)),
        "JPEGs of segments, too short a deadline": list(make_hasty_jpegs(side)),
        "the corpus": make_corpus_requests(),
    }
    return [
        *(
            load.ask_in_turn(shuffle_forever(load, requests), caller=name, keep=False)
            for name, requests in in_turn.items()
        ),
        keep_leaving(
            load, [make_noise(side)], moments=[Leaving.COMPUTED], caller="leaves large photos"
        ),
        keep_reading_slowly(load, make_small_webp(side)),
        keep_sending_slowly(load, make_photo_requests(), seconds=5),
    ]


def describe_callers(results: Sequence[Result]) -> list[Row]:
    """Return a row for each caller; latencies are those of status 200, of the polite callers."""
    rows: list[Row] = []
    for caller in dict.fromkeys(result.caller for result in results):
        own = [result for result in results if result.caller == caller]
        statuses = [result.status for result in own]
        seconds = [result.seconds for result in own if result.status == HTTPStatus.OK]
        row: dict[str, Cell] = {
            "caller": caller,
            "requests": len(own),
            "200": statuses.count(200),
            "4xx": sum(400 <= status < 500 for status in statuses),
            "503": statuses.count(503),
            "no answer": statuses.count(0),
            "other": sum(status >= 500 and status != 503 for status in statuses),
        }
        is_polite = caller in (GOOD, PROBE) and seconds
        for name, quantile in QUANTILES.items():
            row[name] = round(find_quantile(seconds, quantile), 3) if is_polite else ""
        rows.append(row)
    return rows


QUANTILES = {"p50, s": 0.5, "p99, s": 0.99, "most, s": 1.0}


def list_failures(siege: Siege, rows: Sequence[Row], errors: Sequence[str]) -> list[str]:
    """Return the promises that the server did not keep, in words; empty if it kept all."""
    of = {row["caller"]: row for row in rows}
    good = of.get(GOOD, {"200": 0, "p99, s": math.inf, "4xx": 0})
    found = [f"{name} is {value:g} at rest" for name, value in siege.held.items()]
    found += [f"{row['caller']}: {row['other']} answers of 5xx" for row in rows if row["other"]]
    if not good["200"] or good["4xx"]:
        found.append(f"the good caller got {good['200']} masks and {good['4xx']} refusals of 4xx")
    elif float(good["p99, s"]) > MAX_P99_S:
        found.append(f"99 % of the good caller's masks took up to {good['p99, s']} s")
    status = siege.server.process.poll()
    if status is not None:
        found.append(f"the server has ended with status {status}")
    elif siege.grown_mib > MAX_GROWTH_MIB:
        found.append(f"memory has grown by {siege.grown_mib:.0f} MiB")
    return found + [f"the server's log: {line}" for line in errors]


def run_siege(plan: Plan) -> tuple[Siege, list[Row], list[str]]:
    settings = {"stuck_after_s": plan.stuck_after_s, "log_level": "warning", "log_format": "json"}
    with start_our_server(device="cpu", **settings) as server:
        siege = Siege(plan, server, LoadGenerator(server.address), make_photo_requests())
        asyncio.run(siege.run())
        rows = describe_callers(siege.load.results)
        return siege, rows, list_failures(siege, rows, find_errors(server.read_log()))


def main() -> None:
    plan = read_plan(Plan, "siege", __doc__)
    siege, rows, failures = run_siege(plan)
    figures: dict[str, Cell] = {
        "minutes": plan.minutes,
        **{f"resident memory {when}, MiB": round(mib) for when, mib in siege.resident_mib.items()},
        "gauges that are not at zero": ", ".join(siege.held) or "none",
        "verdict": "; ".join(failures) or "passed",
    }
    tables = {"rows": list_figures(figures), "Callers": rows}
    publish("siege", "Hostile callers beside a good one", tables, plan=plan, failures=failures)
    if failures:
        sys.exit("\n".join(f"error: {failure}" for failure in failures))


if __name__ == "__main__":
    main()
