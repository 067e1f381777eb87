"""Middleware that enforces limits while a request arrives: admission and the bytes of bodies.

Plain ASGI, because FastAPI reads the whole body before its dependencies run. Knows nothing of
images.
"""

from collections.abc import Container

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLarge, Overloaded
from app.http.problems import answer_error
from app.scheduling.admission import Admission
from app.scheduling.budget import Budget, Share


class BodyLimit:
    """Middleware: counts the body's bytes; `receive` raises when they exceed a limit.

    Raises BodyTooLarge if this body is too large, and Overloaded if all bodies together are.
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
            scope["upload_share"] = held  # kept by the work that uses the bytes
            body = _CountedBody(receive, held, read_content_length(scope), self.max_body_bytes)
            await self.app(scope, body.receive, send)


class AnswerLimit:
    """Middleware: opens the share for the answer's bytes, or refuses if the budget is used up."""

    def __init__(self, app: ASGIApp, *, paths: Container[str], held: Budget) -> None:
        self.app = app
        self.paths = paths
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        try:
            self.held.require_room()
        except Overloaded as error:
            await answer_error(error, scope)(scope, receive, send)
            return
        with self.held.share() as scope["answer_share"]:
            await self.app(scope, receive, send)


class AdmissionGate:
    """Middleware: refuses an image that cannot be answered in time, before its body is read.

    The handler checks this, too. But under overload most requests are refused, and a refusal here
    takes two thirds of the time.
    """

    def __init__(
        self, app: ASGIApp, *, paths: Container[str], admission: Admission, deadline_s: float
    ) -> None:
        self.app = app
        self.paths = paths
        self.admission = admission
        self.deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in self.paths:
            try:
                self.admission.require_place(scope["stages"].started + self.deadline_s)
            except Overloaded as error:
                await answer_error(error, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class _CountedBody:
    """The body of one request, whose bytes are counted as they arrive."""

    def __init__(self, receive: Receive, held: Share, declared: int | None, limit: int) -> None:
        self._receive = receive
        self._held = held
        self._declared = declared
        self._limit = limit

    async def receive(self) -> Message:
        if self._declared is not None and self._declared > self._limit:
            raise self._make_too_large(f"declares {self._declared} bytes")
        message = await self._receive()
        arrived = len(message.get("body", b""))
        if self._held.amount + arrived > self._limit:
            raise self._make_too_large(f"has more than {self._limit} bytes")
        if arrived:
            self._held.take(arrived)
        return message

    def _make_too_large(self, what: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"The request {what}, the limit is {self._limit}.",
            remedy="Send a smaller file: scale the image down or compress it more.",
        )


def read_content_length(scope: Scope) -> int | None:
    """Return the Content-Length, or None if it is absent (chunked) or not a number."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
