"""Who may call: a key for every path but the public ones, checked before the body is read.

Plain ASGI, and only there where keys are configured. Knows nothing of where keys are kept.
"""

from typing import Any

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.keys import Key, Keyring
from app.errors import Forbidden, Unauthorized, UnknownKey
from app.http.headers import KEY_HEADER
from app.http.paths import PUBLIC_PATHS
from app.http.problems import answer_error


class KeyCheck:
    """Middleware: the caller's Key comes into the scope as `caller`, or a 401 goes back."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring) -> None:
        self.app = app
        self.keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            try:
                scope["caller"] = identify(scope, self.keyring)
            except Unauthorized as problem:
                await answer_error(problem, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def identify(scope: Scope, keyring: Keyring) -> Key:
    """The key of the request's header; the query string is never looked at. Raises Unauthorized."""
    presented = presented_key(scope)
    if presented is None:
        raise Unauthorized(
            "The request has no API key.",
            remedy=f"Send the header 'Authorization: Bearer KEY' or '{KEY_HEADER}: KEY'.",
        )
    key = keyring.find(presented)
    if key is None:
        raise UnknownKey(
            "The API key is not known here.",
            remedy="Check the key, or ask the operator for one.",
        )
    return key


def presented_key(scope: Scope) -> bytes | None:
    """Our own header goes first: a proxy may need Authorization for itself."""
    authorization = b""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return bytes(value)
        if name == b"authorization":
            authorization = value
    scheme, _, credentials = authorization.partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else None


def require_admin(request: Request) -> None:
    """A dependency of what changes the server. Raises Forbidden."""
    caller: Key | None = request.scope.get("caller")
    if caller is None:
        raise Forbidden(
            "Nobody may administer a server without keys.",
            remedy="Set SEG_KEYS_FILE, with an admin's key: python -m app.keys NAME --admin",
        )
    if not caller.is_admin:
        raise Forbidden(
            f"The key of {caller.name} has not the role admin.",
            remedy="Use an admin's key: python -m app.keys NAME --admin",
        )


def describe_keys(app: FastAPI) -> None:
    """Say in the OpenAPI description what needs a key, and how it is sent."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
        }
        document["security"] = [{"bearer": []}, {"header": []}]
        for path in PUBLIC_PATHS & document["paths"].keys():
            for operation in document["paths"][path].values():
                operation["security"] = []
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
