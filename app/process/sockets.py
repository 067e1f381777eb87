"""The sockets on which the server listens. Knows nothing of HTTP."""

import asyncio
import errno
import select
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOL_SOCKET,
    socket,
)

from app.arguments import format_setting
from app.settings import Settings

BACKLOG = 2048
"""The number of connections that may wait to be accepted; the system may allow fewer."""

MAX_LAST_TURNS = 256
"""The limit of the event loop's turns for accepting the last connections, so that a flood cannot
delay the end.
"""

REMEDIES: Mapping[int, str] = {
    errno.EADDRINUSE: "stop the program that listens there, or choose another port: {port}",
    errno.EADDRNOTAVAIL: "choose an address of this machine: {host}",
    errno.EACCES: "ports below 1024 need root; choose another port: {port}",
}
"""What to do. `{port}` and `{host}` are examples of the settings to change."""


class ListenError(OSError):
    """The server cannot listen; has the address and the system's message."""

    port_setting = "port"
    """The setting that has the port."""

    def suggest(self, *, options: Collection[str] = ()) -> str:
        """Return what to do, empty if nobody knows.

        `options` are the names of the variables that were given as options of the command line.
        """
        port = 8001 if self.port_setting == "port" else 9001
        return REMEDIES.get(self.errno or 0, "").format(
            port=format_setting(self.port_setting, port, options=options),
            host=format_setting("host", "127.0.0.1", options=options),
        )


def bind(settings: Settings, *, listening: bool = True) -> list[socket]:
    """Return the main socket, and one for operations if they have a separate port.

    Without `listening` the main socket only reserves its address, and connections are refused; the
    one for operations always listens. Raises ListenError.
    """
    sockets = [_bind_one(settings.host, settings.port, listening=listening)]
    if settings.operations_port is not None:
        try:
            sockets.append(_bind_one(settings.host, settings.operations_port, listening=True))
        except ListenError as error:
            error.port_setting = "operations_port"
            raise
    return sockets


def _bind_one(host: str, port: int, *, listening: bool) -> socket:
    """Bind like the standard library's `create_server`, which always listens."""
    family = AF_INET6 if ":" in host else AF_INET
    with ExitStack() as stack:
        try:
            bound = stack.enter_context(socket(family))
            bound.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            if family == AF_INET6:
                bound.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)
            bound.bind((host, port))
            if listening:
                bound.listen(BACKLOG)
        except OSError as error:
            raise ListenError(error.errno, error.strerror, format_address(host, port)) from error
        stack.pop_all()  # the socket stays open
    return bound


def format_address(host: str, port: int) -> str:
    """Return the address as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def accept_waiting(listener: socket) -> None:
    """Let the event loop accept the connections that the system has already established.

    Closing the listener resets them, although their clients may have sent whole requests. So
    the system first stops establishing more than one at a time.
    """
    listener.listen(0)
    for _ in range(MAX_LAST_TURNS):
        if not has_input(listener.fileno()):
            return
        await asyncio.sleep(0)


def has_input(descriptor: int) -> bool:
    """Return whether reading, or accepting, would return at once."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def find_url(bound: socket) -> str:
    """Return the URL of a socket, with the port that the system chose for port 0."""
    host, port = bound.getsockname()[:2]
    return f"http://{format_address(host, port)}"
