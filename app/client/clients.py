"""`Client` and `AsyncClient`, which run the calls of `app.client.calls`."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from app import __version__
from app.client import calls
from app.client.exchange import Call, Outcome, Request, Session, Wait
from app.client.retries import Retries

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
CONNECT_TIMEOUT_S = 5
ANSWER_MARGIN_S = 2
"""The seconds that the client waits beyond the server's deadline, for the server's own refusal."""


def _synchronous(
    call: Callable[Concatenate[Session, P], Call[T]],
) -> "Callable[Concatenate[Client, P], T]":
    @functools.wraps(call)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(call(self._session, *args, **kwargs))

    return method


def _asynchronous(
    call: Callable[Concatenate[Session, P], Call[T]],
) -> "Callable[Concatenate[AsyncClient, P], Awaitable[T]]":
    @functools.wraps(call)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(call(self._session, *args, **kwargs))

    return method


def _require_address(url: str) -> None:
    """Raise ValueError unless this is the address of an HTTP server."""
    try:
        parsed = httpx.URL(url)
        is_address = parsed.scheme in ("http", "https") and bool(parsed.host)
    except httpx.InvalidURL:
        is_address = False
    if not is_address:
        raise ValueError(f"{url!r} is not an address: give something like {DEFAULT_URL}")


class _BaseClient:
    """The options and the session that both clients have."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 30,
        retries: Retries | None = None,
        connections: int = 100,
    ) -> None:
        """`key` is an API key; `timeout_s` applies to each attempt to get an answer.

        `connections` is the largest number of requests at the same time. Raises ValueError for an
        invalid `url`.
        """
        _require_address(url)
        self._session = Session(url=url, timeout_s=timeout_s, retries=retries or Retries())
        headers = {"User-Agent": f"fcn-client/{__version__}"}
        if key:
            headers["X-API-Key"] = key
        self._connect(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(
                timeout_s + ANSWER_MARGIN_S, connect=CONNECT_TIMEOUT_S, pool=None
            ),
            limits=httpx.Limits(max_connections=connections),
        )

    def _connect(self, **options: Any) -> None:
        raise NotImplementedError


def _build(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    return http.build_request(
        request.method,
        request.path,
        params=request.parameters,
        headers=request.headers,
        content=request.content or None,
    )


class Client(_BaseClient):
    """A blocking client, which threads may share. Close it, or use it in a `with`."""

    def _connect(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    segment = _synchronous(calls.segment)
    segment_array = _synchronous(calls.segment_array)
    segment_json = _synchronous(calls.segment_json)
    segment_rle = _synchronous(calls.segment_rle)
    segment_polygons = _synchronous(calls.segment_polygons)
    segment_confidence = _synchronous(calls.segment_confidence)
    segment_overlay = _synchronous(calls.segment_overlay)
    segment_many = _synchronous(calls.segment_many)
    model = _synchronous(calls.model)
    is_ready = _synchronous(calls.is_ready)
    reload = _synchronous(calls.reload)

    def _run(self, call: Call[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = self._perform(step)

    def _perform(self, step: Request | Wait) -> Outcome:
        if isinstance(step, Wait):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.send(_build(self._http, step))
        except httpx.RequestError as error:
            return error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient(_BaseClient):
    """An asynchronous client for one event loop. Close it, or use it in an `async with`."""

    def _connect(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    segment = _asynchronous(calls.segment)
    segment_array = _asynchronous(calls.segment_array)
    segment_json = _asynchronous(calls.segment_json)
    segment_rle = _asynchronous(calls.segment_rle)
    segment_polygons = _asynchronous(calls.segment_polygons)
    segment_confidence = _asynchronous(calls.segment_confidence)
    segment_overlay = _asynchronous(calls.segment_overlay)
    segment_many = _asynchronous(calls.segment_many)
    model = _asynchronous(calls.model)
    is_ready = _asynchronous(calls.is_ready)
    reload = _asynchronous(calls.reload)

    async def _run(self, call: Call[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            outcome = await self._perform(step)

    async def _perform(self, step: Request | Wait) -> Outcome:
        if isinstance(step, Wait):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.send(_build(self._http, step))
        except httpx.RequestError as error:
            return error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
