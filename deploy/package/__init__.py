"""The installed service, all in one package.

    from fcn_service import Client

`fcn` is its command line. `fcn_service.app` and `fcn_service.model` are the repository's folders.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn_service.app.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """Import the client at its first use, because the server's processes do not need it."""
    if name in __all__:
        from fcn_service.app import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
