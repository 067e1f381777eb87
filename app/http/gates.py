"""Limits that hold while a request arrives: a place for it, its bytes, and the bytes of all.

Plain ASGI, so that it sees the body before anybody has read it. Knows nothing of images.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import BodyTooLarge, Overloaded
from app.http.problems import answer_error
from app.scheduling.admission import Admission
from app.scheduling.budget import Budget, Share


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
            scope["upload_share"] = held  # whoever works on the bytes keeps it meanwhile
            body = _CountedBody(receive, held, declared_bytes(scope), self.max_body_bytes)
            await self.app(scope, body.receive, send)


class AnswerLimit:
    """A share for the answer, until it is sent. Refuses a request where no room is left for one."""

    def __init__(self, app: ASGIApp, *, path: str, held: Budget) -> None:
        self.app = app
        self.path = path
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
            return
        try:
            self.held.require_room()
        except Overloaded as problem:
            await answer_error(problem, scope)(scope, receive, send)
            return
        with self.held.share() as scope["answer_share"]:
            await self.app(scope, receive, send)


class AdmissionGate:
    """Refuses an image that cannot be answered in time, before anything is made of its request.

    The handler would as well; but under overload most requests end here, in two thirds of the time.
    """

    def __init__(self, app: ASGIApp, *, path: str, admission: Admission, deadline_s: float) -> None:
        self.app = app
        self.path = path
        self.admission = admission
        self.deadline_s = deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == self.path:
            try:
                self.admission.require_place(scope["stages"].started + self.deadline_s)
            except Overloaded as problem:
                await answer_error(problem, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


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
        if arrived:
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
