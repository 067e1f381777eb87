"""Draining: limits the time that accepted requests have after SIGTERM.

A request that is not complete at the limit is answered with a problem. Knows nothing of what the
requests ask for.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import NotReady
from app.http.problems import answer_error

GRACE_S = 0.4
"""The seconds after the limit for sending the last answers and ending the threads."""


class Drain:
    """The drain of one service and its event loop. Without a limit, all requests are completed."""

    def __init__(self) -> None:
        self._running: set[asyncio.Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._limit_s = 0.0
        self._due: float | None = None

    @property
    def left_s(self) -> float | None:
        """The seconds until the process must end, including GRACE_S; None without a limit."""
        return None if self._due is None else max(0, self._due + GRACE_S - time.monotonic())

    def end_within(self, seconds: float) -> None:
        """Set the limit; a later call replaces it."""
        if self._timer is not None:
            self._timer.cancel()
        self._limit_s, self._due = seconds, time.monotonic() + seconds
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        running, self._running = self._running, set()
        for request in running:
            request.reschedule(now)

    @asynccontextmanager
    async def limit(self) -> AsyncIterator[None]:
        """Cancel the block at the limit, and raise NotReady."""
        try:
            async with asyncio.timeout(None) as request:
                self._running.add(request)
                try:
                    yield
                finally:
                    self._running.discard(request)
        except TimeoutError as error:
            if not request.expired():
                raise
            raise NotReady(
                f"The server is shutting down and could not finish this request within "
                f"{self._limit_s:g} s.",
                remedy="Try again; another server may answer.",
                retry_after_s=1,
            ) from error


class DrainLimit:
    """Middleware: answers a request with a problem if it is not complete at the drain's limit."""

    def __init__(self, app: ASGIApp, *, drain: Drain) -> None:
        self.app = app
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def watched_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with self.drain.limit():
                await self.app(scope, receive, watched_send)
        except NotReady as error:
            if not has_begun:  # otherwise the connection is closed in the middle of the answer
                await answer_error(error, scope)(scope, receive, send)
