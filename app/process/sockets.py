"""Where the server listens. Knows nothing of what is answered there."""

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

from app.settings import Settings

BACKLOG = 2048
"""Connections that wait to be accepted; the system may allow fewer."""


class ListenError(OSError):
    """Names the address, and what the system says of it."""


def bind(settings: Settings, *, listening: bool = True) -> list[socket]:
    """Sockets: for everything, and for operations where they have a port of their own.

    Without `listening` the first one's address is only taken, and its callers are refused for now;
    that for operations listens in any case. Raises ListenError.
    """
    sockets = [_bound(settings.host, settings.port, listening=listening)]
    if settings.operations_port is not None:
        sockets.append(_bound(settings.host, settings.operations_port, listening=True))
    return sockets


def _bound(host: str, port: int, *, listening: bool) -> socket:
    """As the standard library's `create_server` does it, which listens in any case."""
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
            raise ListenError(error.errno, error.strerror, written(host, port)) from error
        stack.pop_all()  # it stays open
    return bound


def written(host: str, port: int) -> str:
    """As in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address(bound: socket) -> str:
    """As a URL; with port 0, what the system chose."""
    host, port = bound.getsockname()[:2]
    return f"http://{written(host, port)}"
