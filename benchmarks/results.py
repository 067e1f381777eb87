"""The results of a load: outcomes, latencies, throughput.

Knows nothing of how the requests were sent.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from benchmarks.report import Cell, Row

NO_RESPONSE = 0
"""The status of a request without a response: refused, broken off, or not in time."""


class Outcome(StrEnum):
    """The outcome of a request, in the order of the report's columns."""

    MASK = "mask"
    REFUSED = "refused"
    """The server refused it with a status that it may have."""
    OVERLOADED = "503"
    LEFT = "left"
    """Its caller closed the connection before the response."""
    CUT_OFF = "cut off"
    """The server closed the connection before it was sent completely."""
    LOST = "LOST"
    """It was sent completely and got no response."""
    WRONG = "WRONG"
    """It got another mask than alone, or a status that it cannot have."""


FAILURES = (Outcome.LOST, Outcome.WRONG)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one request.

    `seconds` count from when the request was due, not from when it was sent; `ended_s` counts from
    the start of the load.
    """

    status: int
    seconds: float
    ended_s: float
    caller: str = ""
    outcome: Outcome = Outcome.MASK
    server_timing: str = ""

    def read_stages_ms(self) -> dict[str, float]:
        """The milliseconds of each stage in the response's Server-Timing header."""
        entries = (entry.strip().partition(";dur=") for entry in self.server_timing.split(","))
        return {name: float(milliseconds) for name, _, milliseconds in entries if name}


@dataclass(frozen=True, slots=True)
class Load:
    """The results in the order in which the requests ended, and what the load took."""

    results: Sequence[Result]
    wall_s: float
    client_cpu_s: float

    @property
    def statuses(self) -> dict[int, int]:
        """Number of requests by status."""
        return dict(Counter(result.status for result in self.results))

    @property
    def throughput(self) -> float:
        """Responses 200 per second, until the last of them; 0 where there are none."""
        ends = [result.ended_s for result in self.results if result.status == HTTPStatus.OK]
        return len(ends) / max(ends) if ends else 0.0

    @property
    def client_share(self) -> float:
        """The part of one core that the generator itself used."""
        return self.client_cpu_s / self.wall_s

    def share(self, status: int) -> float:
        return self.statuses.get(status, 0) / len(self.results)

    def latency_ms(self, quantile: float, *, status: int = HTTPStatus.OK) -> float:
        """The latency that a share `quantile` of the responses with that status does not exceed;
        NaN where there are none.
        """
        seconds = sorted(result.seconds for result in self.results if result.status == status)
        if not seconds:
            return math.nan
        return 1000 * seconds[max(0, math.ceil(quantile * len(seconds)) - 1)]


def count_outcomes(results: Sequence[Result]) -> list[Row]:
    """One row for each caller and one for all: the number of requests by outcome."""
    counts = Counter((result.caller, result.outcome) for result in results)
    callers = sorted({result.caller for result in results})

    def count(name: str, chosen: Sequence[str]) -> dict[str, Cell]:
        by_outcome = {o: sum(counts[caller, o] for caller in chosen) for o in Outcome}
        return {"caller": name, "requests": sum(by_outcome.values()), **by_outcome}

    return [*(count(caller, [caller]) for caller in callers), count("all", callers)]
