"""One request and its answer: wraps the application and the transport of uvicorn's cycle.

Knows nothing of the content of either.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.errors import RequestError

BEGINNING = b"HTTP/1.1 "
"""Every answer begins with these bytes."""


class Exchange:
    """Wraps the application that the cycle runs, and the transport that it writes to."""

    def __init__(self, app: Any, cycle: RequestResponseCycle, *, close: Callable[[], None]) -> None:
        """`close` replaces the transport's, because the client may still be sending."""
        self._app = app
        self._transport = cycle.transport
        self._close = close
        self._begun_bytes = 0
        cycle.transport = cast(asyncio.Transport, self)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def receive_body() -> Any:
            """Return the next message, or raise the error of a body that cannot be read."""
            message = await receive() if "body_error" not in scope else None
            if "body_error" in scope:
                raise scope["body_error"]
            return message

        await self._app(scope, receive_body, send)

    def begin(self) -> None:
        """Send BEGINNING before the answer is known."""
        self._transport.write(BEGINNING)
        self._begun_bytes = len(BEGINNING)

    def write(self, data: bytes) -> None:
        if self._begun_bytes:
            assert data.startswith(BEGINNING)
            data, self._begun_bytes = data[self._begun_bytes :], 0
        self._transport.write(data)

    def close(self) -> None:
        self._close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


def fail_body(cycle: RequestResponseCycle, error: RequestError) -> None:
    """Raise the error where the application reads the body, and close after the answer."""
    cast(dict[str, Any], cycle.scope)["body_error"] = error
    cycle.keep_alive = False
    cycle.message_event.set()


def disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the application that its client has disconnected."""
    cycle.disconnected = True
    cycle.message_event.set()
