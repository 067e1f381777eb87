"""Where the server listens. Knows nothing of what is answered there."""

from socket import AF_INET, AF_INET6, create_server, socket

from app.settings import Settings

BACKLOG = 2048
"""Connections that wait to be accepted; the system may allow fewer."""


def bind(settings: Settings) -> list[socket]:
    """Listening sockets: for everything, and for operations where they have a port of their own.

    Raises OSError.
    """
    ports = [settings.port]
    if settings.operations_port is not None:
        ports.append(settings.operations_port)
    family = AF_INET6 if ":" in settings.host else AF_INET
    return [create_server((settings.host, port), family=family, backlog=BACKLOG) for port in ports]


def address(bound: socket) -> str:
    """As a URL; with port 0, what the system chose."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
