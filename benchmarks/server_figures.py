"""The figures of the server benchmark: medians over the rounds, and medians of the rounds' ratios.

Knows nothing of how the servers were loaded.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from statistics import mean, median

from benchmarks.load import SETTLE_S
from benchmarks.report import Cell, Row
from benchmarks.results import NO_RESPONSE, Load

ENGINE_ALONE = ("engine in a loop", "engine kept busy")
REFUSED = HTTPStatus.SERVICE_UNAVAILABLE

Figure = Callable[[Load], float]

CLOSED_LOOP: dict[str, Figure] = {
    "images/s": lambda load: load.throughput,
    "p50 ms": lambda load: load.latency_ms(0.5),
    "p99 ms": lambda load: load.latency_ms(0.99),
    "client's share of a core": lambda load: load.client_share,
}
OPEN_LOOP: dict[str, Figure] = {
    "goodput, images/s": lambda load: load.throughput,
    "share answered": lambda load: load.share(HTTPStatus.OK),
    "share refused (503)": lambda load: load.share(REFUSED),
    "share without answer in time": lambda load: load.share(NO_RESPONSE),
    "p50 of the answered, ms": lambda load: load.latency_ms(0.5),
    "p99 of the answered, ms": lambda load: load.latency_ms(0.99),
    "p50 of the refused, ms": lambda load: load.latency_ms(0.5, status=REFUSED),
    "p99 of the refused, ms": lambda load: load.latency_ms(0.99, status=REFUSED),
    "client's share of a core": lambda load: load.client_share,
}


@dataclass(slots=True)
class Measurements:
    """What was measured in all rounds.

    `loads` has a load per round by server and kind; a closed loop's kind is its number of callers.
    `engine` has the images per second of the engine alone, in the order of `ENGINE_ALONE`. `equal`
    is the share of each photo's pixels that have the same class from both servers.
    """

    callers: Sequence[int]
    equal: Sequence[float]
    loads: defaultdict[tuple[str, int | str], list[Load]] = field(
        default_factory=lambda: defaultdict(list)
    )
    engine: list[Sequence[float]] = field(default_factory=list)
    overload_rate: float = 0

    def collect(
        self, server: str, kind: int | str, figure: Figure = CLOSED_LOOP["images/s"]
    ) -> list[float]:
        return [figure(load) for load in self.loads[server, kind]]

    def collect_throughputs(self) -> dict[str, object]:
        throughputs: dict[str, object] = {
            server: {callers: self.collect(server, callers) for callers in self.callers}
            for server in ("ours", "naive")
        }
        return throughputs | dict(zip(ENGINE_ALONE, zip(*self.engine, strict=True), strict=True))

    def list_rows(self) -> list[Row]:
        return [
            make_row("equal pixels, mean of the photos", f"{mean(self.equal):.5f}"),
            make_row("equal pixels, worst photo", f"{min(self.equal):.5f}"),
            *self._list_closed_loops(),
            *self._list_stages(),
            *self._list_overloads(),
        ]

    def _list_closed_loops(self) -> Iterator[Row]:
        for callers in self.callers:
            for name, figure in CLOSED_LOOP.items():
                ours, naive = (self.collect(who, callers, figure) for who in ("ours", "naive"))
                label = f"{name}, {callers} caller{'s' * (callers > 1)}"
                yield make_row(label, median(ours), median(naive), "", median_ratio(ours, naive))
        most = max(self.callers)
        served = self.collect("ours", most)
        for how, alone in zip(ENGINE_ALONE, zip(*self.engine, strict=True), strict=True):
            label = f"images/s served to {most} callers, against the {how}"
            ratio = median_ratio(served, alone)
            yield make_row(label, median(served), "", median(alone), ratio)

    def _list_stages(self) -> Iterator[Row]:
        """Yield the stages of a lone request, and its time outside of the threads' work."""
        results = [
            result
            for load in self.loads["ours", 1]
            for result in load.results
            if result.status == HTTPStatus.OK
        ]
        stages = [result.read_stages_ms() for result in results]
        besides = [
            1000 * result.seconds - sum(one[name] for name in ("decode", "inference", "encode"))
            for result, one in zip(results, stages, strict=True)
        ]
        yield make_row("lone request, ms besides decode, inference and encode", median(besides))
        for name in stages[0]:
            yield make_row(f"lone request, ms of {name}", median(one[name] for one in stages))
        ping = median(self.collect("ours", "ping", CLOSED_LOOP["p50 ms"]))
        yield make_row("GET /health/live on the same terms, ms", ping)

    def _list_overloads(self) -> Iterator[Row]:
        offered = f"overload, {self.overload_rate:.1f} images/s offered"
        goodput, peak = self.collect("ours", "overload"), self.collect("ours", "peak")
        yield make_row(f"{offered}: goodput against the peak", median_ratio(goodput, peak))
        p50 = CLOSED_LOOP["p50 ms"]
        before, after = (median(self.collect("ours", kind, p50)) for kind in (1, "recovery"))
        label = f"{offered}: p50 of a lone caller {SETTLE_S:g} s after it, against before"
        yield make_row(label, after, ratio=after / before)
        for name, figure in OPEN_LOOP.items():
            values = [median(self.collect(who, "overload", figure)) for who in ("ours", "naive")]
            # NaN: no response had the status, so there is no latency.
            cells = ["" if math.isnan(value) else value for value in values]
            yield make_row(f"{offered}: {name}", *cells)


def make_row(figure: str, ours: Cell, naive: Cell = "", alone: Cell = "", ratio: Cell = "") -> Row:
    columns = ("figure", "ours", "naive", "engine alone", "ours / other")
    return dict(zip(columns, (figure, ours, naive, alone, ratio), strict=True))


def median_ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    return median(a / b for a, b in zip(ours, other, strict=True))
