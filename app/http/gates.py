"""Middleware that enforces limits: of images, and of the bytes of bodies and answers.

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

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, budget: Budget) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.budget.share() as share:
            scope["upload_share"] = share  # kept by the work that uses the bytes
            body = _CountedBody(
                receive,
                share=share,
                declared_bytes=read_content_length(scope),
                max_bytes=self.max_body_bytes,
            )
            await self.app(scope, body.receive, send)


class AnswerLimit:
    """Middleware: opens the share for the answer's bytes, or refuses if the budget is used up."""

    def __init__(self, app: ASGIApp, *, paths: Container[str], budget: Budget) -> None:
        self.app = app
        self.paths = paths
        self.budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        try:
            self.budget.require_room()
        except Overloaded as error:
            await answer_error(error, scope)(scope, receive, send)
            return
        with self.budget.share() as scope["answer_share"]:
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

    def __init__(
        self, receive: Receive, *, share: Share, declared_bytes: int | None, max_bytes: int
    ) -> None:
        self._receive = receive
        self._share = share
        self._declared_bytes = declared_bytes
        self._max_bytes = max_bytes

    async def receive(self) -> Message:
        if self._declared_bytes is not None and self._declared_bytes > self._max_bytes:
            raise self._make_too_large(f"declares {self._declared_bytes} bytes")
        message = await self._receive()
        arrived_bytes = len(message.get("body", b""))
        if self._share.amount + arrived_bytes > self._max_bytes:
            raise self._make_too_large(f"has more than {self._max_bytes} bytes")
        if arrived_bytes:
            self._share.take(arrived_bytes)
        return message

    def _make_too_large(self, what: str) -> BodyTooLarge:
        return BodyTooLarge(
            f"The request {what}, the limit is {self._max_bytes}.",
            remedy="Send a smaller file: scale the image down or compress it more.",
        )


def read_content_length(scope: Scope) -> int | None:
    """Return the Content-Length, or None if it is absent (chunked) or not a number."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return None
