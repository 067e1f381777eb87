"""Limits that hold while a request arrives: its bytes, declared or counted, and those of all.

Plain ASGI, so that it sees the body before anybody has read it. Knows nothing of images.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.budget import Budget, Share
from app.errors import BodyTooLarge


class BodyLimit:
    """Raises out of the first `receive` too many; the application answers.

    BodyTooLarge for one body, Overloaded for all that are held together.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, held: Budget) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.held.share() as held:
            body = _CountedBody(receive, held, declared_bytes(scope), self.max_body_bytes)
            await self.app(scope, body.receive, send)


class _CountedBody:
    def __init__(self, receive: Receive, held: Share, declared: int | None, limit: int) -> None:
        self._receive = receive
        self._held = held
        self._declared = declared
        self._limit = limit

    async def receive(self) -> Message:
        if self._declared is not None and self._declared > self._limit:
            raise self._too_large(f"declares {self._declared} bytes")
        message = await self._receive()
        arrived = len(message.get("body", b""))
        if self._held.amount + arrived > self._limit:
            raise self._too_large(f"has more than {self._limit} bytes")
        self._held.take(arrived)
        return message

    def _too_large(self, what: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"The request {what}, the limit is {self._limit}.",
            remedy="Send a smaller file: scale the image down or compress it more.",
        )


def declared_bytes(scope: Scope) -> int | None:
    """The Content-Length, None where there is none (chunked) or where it is no number."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
