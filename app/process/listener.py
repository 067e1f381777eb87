"""A worker's part in a socket that several share: it accepts only while it takes requests.

Who waits in the socket's one queue is accepted by whichever worker does, so that one that loads,
drains, is stuck or was killed keeps nobody waiting. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable
from socket import socket

from app.process.sockets import BACKLOG


class Listener:
    """Open or closed, as `is_wanted` says. The shared socket itself stays open meanwhile."""

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
        return self._server is not None

    async def open(self) -> None:
        """Unless it is not wanted any more. Raises OSError."""
        async with self._turn:
            if self._is_wanted() and self._server is None:
                loop = asyncio.get_running_loop()
                self._server = await loop.create_server(
                    self._protocol, sock=self._shared.dup(), backlog=BACKLOG
                )
            if not self._is_wanted():
                self.close()

    def close(self) -> None:
        """At once; what was accepted goes on."""
        if self._server is not None:
            self._server.close()
            self._server = None
