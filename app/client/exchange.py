"""One request of a call and its answer: attempts, retries and errors.

Knows nothing of what the request asks for.
"""

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from app.client.errors import (
    AnswerTimeout,
    ClientError,
    InvalidAnswer,
    ProblemError,
    ServerUnreachable,
)
from app.client.retries import RETRIED_STATUSES, Retries, parse_retry_after
from app.formats import AnswerFormat
from app.schemas import Limits, ProblemDetails

T = TypeVar("T")
Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One attempt to get an answer."""

    method: str
    path: str
    parameters: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause before the next attempt."""

    seconds: float


Outcome: TypeAlias = httpx.Response | httpx.RequestError | None
"""The outcome of a request; None after a wait."""

Call: TypeAlias = Generator[Request | Wait, Outcome, T]


@dataclass(slots=True, kw_only=True)
class Session:
    """The state that the calls of one client share."""

    url: str
    timeout_s: float
    retries: Retries
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The names of the classes, by the digest of their weights."""
    limits: Limits | None = None
    """The server's limits, once they are known."""


def choose_parameters(
    answer: AnswerFormat,
    *,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
    alpha: float | None = None,
) -> dict[str, str]:
    """Return the query parameters of a segmentation; None means the server's default."""
    chosen = {
        "format": answer.value,
        "max_side": None if max_side is None else str(max_side),
        "classes": None if classes is None else ",".join(map(str, classes)),
        "alpha": None if alpha is None else f"{alpha:g}",
    }
    return {name: value for name, value in chosen.items() if value is not None}


def exchange(session: Session, request: Request) -> Call[httpx.Response]:
    """Send the request until it succeeds, and return the answer. Raises ClientError."""
    waited_s = 0.0
    attempt = 1
    while True:
        outcome = yield request
        assert outcome is not None
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return outcome
        retry_after_s = None
        if isinstance(outcome, httpx.Response):
            retry_after_s = parse_retry_after(outcome.headers)
        wait_s = session.retries.choose_wait(
            attempt, waited_s=waited_s, retry_after_s=retry_after_s
        )
        if wait_s is None or not _is_worth_a_retry(outcome):
            raise _make_error(session, outcome)
        yield Wait(wait_s)
        waited_s += wait_s
        attempt += 1


def _is_worth_a_retry(outcome: httpx.Response | httpx.RequestError) -> bool:
    """Return whether the same request may succeed later.

    A timeout is not retried: the server has worked on the request, and a retry would add to its
    load.
    """
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in RETRIED_STATUSES
    return isinstance(
        outcome, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ConnectTimeout
    )


def _make_error(session: Session, outcome: httpx.Response | httpx.RequestError) -> ClientError:
    if isinstance(outcome, httpx.Response):
        return _read_problem(outcome)
    error: ClientError
    if isinstance(outcome, httpx.TimeoutException) and not isinstance(
        outcome, httpx.ConnectTimeout
    ):
        error = AnswerTimeout(
            f"{session.url} did not answer within {session.timeout_s:g} s: allow more time, or "
            "send smaller photos"
        )
    else:
        error = ServerUnreachable(
            f"{session.url} cannot be reached ({outcome or type(outcome).__name__}): is the server "
            "started there?"
        )
    error.__cause__ = outcome
    return error


def _read_problem(response: httpx.Response) -> ClientError:
    """Return the problem detail in an answer, or one that is made from its status."""
    try:
        problem = ProblemDetails.model_validate_json(response.content)
    except ValidationError:
        problem = ProblemDetails(
            type="about:blank",
            title=response.reason_phrase or "Error",
            status=response.status_code,
            detail=f"{response.url} answered without a problem detail.",
            remedy="Check that the address is that of this service.",
        )
    return ProblemError(
        problem,
        request_id=response.headers.get("X-Request-ID", ""),
        retry_after_s=parse_retry_after(response.headers),
    )


def parse(response: httpx.Response, kind: type[Fields]) -> Fields:
    try:
        return kind.model_validate(json.loads(response.content))
    except ValueError as error:  # also pydantic's
        raise make_invalid(response, kind.__name__) from error


def make_invalid(response: httpx.Response, expected: str) -> InvalidAnswer:
    found = response.headers.get("Content-Type", "no Content-Type")
    return InvalidAnswer(
        f"{response.url} answered with {found}, not with {expected}: is it another server?"
    )


def parse_timings(value: str) -> Iterator[tuple[str, float]]:
    for entry in value.split(","):
        name, _, duration = entry.strip().partition(";dur=")
        if duration:
            yield name, float(duration)
