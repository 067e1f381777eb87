"""The results of a load: outcomes, latencies, throughput.

Knows nothing of how the requests were sent.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus

from benchmarks.report import Cell, Row

NO_RESPONSE = 0
"""The status of a request without a response: not connected, disconnected, or timed out."""


class Outcome(StrEnum):
    """The outcome of a request, in the order of the table's columns."""

    MASK = "mask"
    REFUSED = "refused"
    """The server refused it with a status that is right for this request."""
    OVERLOADED = "503"
    LEFT = "left"
    """The caller closed the connection before the response."""
    CUT_OFF = "cut off"
    """The server closed the connection before the request was sent completely."""
    LOST = "LOST"
    """The request was sent completely and got no response."""
    WRONG = "WRONG"
    """The response has a wrong mask, or a status that is wrong for this request."""


FAILURES = (Outcome.LOST, Outcome.WRONG)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one request.

    `seconds` is the time since the request was due, not since it was sent. `ended_s` counts from
    the start of the load.
    """

    status: int
    seconds: float
    ended_s: float
    caller: str = ""
    outcome: Outcome = Outcome.MASK
    server_timing: str = ""

    def read_stages_ms(self) -> dict[str, float]:
        """Return the milliseconds of each stage in the response's Server-Timing header."""
        entries = (entry.strip().partition(";dur=") for entry in self.server_timing.split(","))
        return {name: float(milliseconds) for name, _, milliseconds in entries if name}


@dataclass(frozen=True, slots=True)
class Load:
    """The results in the order in which the requests ended, and the cost of the load."""

    results: Sequence[Result]
    wall_s: float
    client_cpu_s: float

    @property
    def statuses(self) -> dict[int, int]:
        """Number of requests by status."""
        return dict(Counter(result.status for result in self.results))

    @property
    def answered(self) -> int:
        return self.statuses.get(HTTPStatus.OK, 0)

    @property
    def throughput(self) -> float:
        """Responses 200 per second, until the last of them; 0 if there are none."""
        ends = [result.ended_s for result in self.results if result.status == HTTPStatus.OK]
        return len(ends) / max(ends) if ends else 0.0

    @property
    def client_share(self) -> float:
        """The share of one core that the load generator used."""
        return self.client_cpu_s / self.wall_s

    def require_masks(self) -> "Load":
        """Return this load. Raises AssertionError if a request was not answered with 200."""
        assert set(self.statuses) == {HTTPStatus.OK}, f"statuses {self.statuses}"
        return self

    def share(self, status: int) -> float:
        return self.statuses.get(status, 0) / len(self.results)

    def latency_ms(self, quantile: float, *, status: int = HTTPStatus.OK) -> float:
        """Return the latencies' quantile of responses with that status; NaN without any."""
        chosen = (result.seconds for result in self.results if result.status == status)
        return 1000 * find_quantile(chosen, quantile)


def find_quantile(values: Iterable[float], quantile: float) -> float:
    """Return the smallest value that this share of all does not exceed; NaN without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)] if ordered else math.nan


def count_outcomes(results: Sequence[Result]) -> list[Row]:
    """Return a row for each caller and one for all: the number of requests by outcome."""
    counts = Counter((result.caller, result.outcome) for result in results)
    callers = sorted({result.caller for result in results})

    def count(name: str, chosen: Sequence[str]) -> dict[str, Cell]:
        by_outcome = {o: sum(counts[caller, o] for caller in chosen) for o in Outcome}
        return {"caller": name, "requests": sum(by_outcome.values()), **by_outcome}

    return [*(count(caller, [caller]) for caller in callers), count("all", callers)]
