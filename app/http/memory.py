"""Middleware that returns freed memory to the system after bursts of images.

The allocator returns only what is free at the end of a heap, and small objects that live long keep
that end in use. Knows nothing of images.
"""

import asyncio
from collections.abc import Container

from starlette.types import ASGIApp, Receive, Scope, Send

from app.observability import allocator

PAUSE_S = 30.0
"""The time from the end of a request to the release. One release follows any number of requests."""


class MemoryRelease:
    """Middleware: returns freed memory some time after a request, if none is in flight then.

    While requests follow each other without a gap, the memory is in use anyway.
    """

    def __init__(self, app: ASGIApp, *, paths: Container[str]) -> None:
        self.app = app
        self.paths = paths
        self._in_flight = 0
        self._is_waiting = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._schedule()

    def _schedule(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            asyncio.get_running_loop().call_later(PAUSE_S, self._release)

    def _release(self) -> None:
        self._is_waiting = False
        if not self._in_flight:  # otherwise, the end of that request schedules the next one
            asyncio.get_running_loop().run_in_executor(None, allocator.give_back)
