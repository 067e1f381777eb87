"""The work of an engine process: accepts workers, until it is told to stop and they have ended.

Knows nothing of signals and of the process' end.
"""

import asyncio
from socket import socket

from app.sharing.batching import BatchingEngine
from app.sharing.worker_session import WorkerSession


class Host:
    """Serves all workers with one engine."""

    def __init__(self, listener: socket, engine: BatchingEngine, *, number: int) -> None:
        """`number` is the engine's, among those of the machine."""
        self._listener = listener
        self._engine = engine
        self._number = number
        self._sessions: set[WorkerSession] = set()
        self._ended = asyncio.Event()
        self._is_stopping = False

    async def run(self) -> None:
        """Accept workers until `stop`, and serve them until they have ended."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        loop.add_reader(self._listener, self._accept)
        try:
            async with self._engine.running():
                await self._ended.wait()
        finally:
            loop.remove_reader(self._listener)

    def stop(self) -> None:
        """Make `run` return when no worker is connected: workers finish their requests first."""
        self._is_stopping = True
        self._end_if_idle()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):  # it has gone again
            return
        self._sessions.add(
            WorkerSession(connection, self._engine, number=self._number, on_end=self._forget)
        )

    def _forget(self, session: WorkerSession) -> None:
        self._sessions.discard(session)
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self._is_stopping and not self._sessions:
            self._ended.set()
