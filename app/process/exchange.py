"""One request of a connection and its answer: what stands on both sides of uvicorn's cycle.

Knows nothing of what is asked or answered.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.errors import RequestError

BEGINNING = b"HTTP/1.1 "
"""Of every answer, whatever it will be."""


class Exchange:
    """The application that the cycle runs, and the transport that it writes to."""

    def __init__(self, app: Any, cycle: RequestResponseCycle, *, close: Callable[[], None]) -> None:
        """`close`: instead of the transport's, for who may still be sending."""
        self._app = app
        self._transport = cycle.transport
        self._close = close
        self._begun_bytes = 0
        cycle.transport = cast(asyncio.Transport, self)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def receive_body() -> Any:
            """Raises the problem that the body has turned out to have."""
            message = await receive() if "body_problem" not in scope else None
            if "body_problem" in scope:
                raise scope["body_problem"]
            return message

        await self._app(scope, receive_body, send)

    def begin(self) -> None:
        """Send what is certain of an answer before the rest of it is known."""
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


def fail_body(cycle: RequestResponseCycle, problem: RequestError) -> None:
    """Raise it where the application reads the body; the answer will be the connection's last."""
    cast(dict[str, Any], cycle.scope)["body_problem"] = problem
    cycle.keep_alive = False
    cycle.message_event.set()


def disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the application that its caller has left."""
    cycle.disconnected = True
    cycle.message_event.set()
