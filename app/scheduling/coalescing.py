"""Coalescing: concurrent requests for the same work share one run of it.

Knows nothing of the work.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Coalesced(Generic[T]):
    """Runs `work`, one run at a time. For use in one event loop."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None

    async def run(self) -> T:
        """Return the result of a run that begins after this call.

        Calls during a run share the next run. Cancelling a call does not cancel the run, because
        other calls may be waiting for it.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._run())
            self._next.add_done_callback(_retrieve)
        return await asyncio.shield(self._next)

    async def _run(self) -> T:
        async with self._turn:
            self._next = None
            return await self._work()


def _retrieve(task: "asyncio.Task[T]") -> None:
    """Retrieve the exception, so that asyncio does not report it if every call was cancelled."""
    if not task.cancelled():
        task.exception()
