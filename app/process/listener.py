"""The listener of one worker on the shared socket: it accepts only while the worker is ready.

Any ready worker may accept the next connection in the socket's queue. So a worker that is loading,
draining, stuck or killed delays no connection. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable
from socket import socket

from app.process.sockets import BACKLOG


class Listener:
    """Opens and closes a duplicate of the shared socket, which itself stays open."""

    def __init__(
        self,
        shared: socket,
        *,
        protocol: Callable[[], asyncio.Protocol],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._shared = shared
        self._protocol = protocol
        self._is_wanted = is_wanted
        self._turn = asyncio.Lock()
        self._server: asyncio.Server | None = None

    @property
    def is_open(self) -> bool:
        """Whether connections are accepted."""
        return self._server is not None

    async def open(self) -> None:
        """Accept connections, if `is_wanted` still returns true. Raises OSError."""
        async with self._turn:
            if self._is_wanted() and self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(
                    self._protocol, sock=self._shared.dup(), backlog=BACKLOG
                )
            if not self._is_wanted():
                self.close()

    def close(self) -> None:
        """Stop accepting at once; accepted connections continue."""
        if self._server is not None:
            self._server.close()
            self._server = None
