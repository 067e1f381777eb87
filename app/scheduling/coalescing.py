"""Work that many ask for at once, and that is done once for all of them.

Knows nothing of what is done.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Coalesced(Generic[T]):
    """Runs `work`, never twice at the same time. For one event loop."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[T] | None = None

    async def run(self) -> T:
        """The outcome of a run that begins after this call.

        Who asks while one is running shares the one that follows. A caller who is cancelled ends
        nothing: others may wait for the same run.
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
    """So that asyncio does not report an exception that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
