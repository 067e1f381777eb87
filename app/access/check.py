"""The key check: every path except the public ones requires an API key.

Plain ASGI, before the body is read, and only if keys are configured. Knows nothing of where keys
are stored.
"""

from typing import Any

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access.keys import Key, Keyring
from app.errors import Forbidden, Unauthorized, UnknownKey
from app.http.headers import KEY_HEADER
from app.http.paths import PUBLIC_PATHS, is_public
from app.http.problems import answer_error


class KeyCheck:
    """Middleware: puts the request's Key into the scope as `caller`, or answers 401."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring) -> None:
        self.app = app
        self.keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_public(scope["path"]):
            try:
                scope["caller"] = identify(scope, self.keyring)
            except Unauthorized as error:
                await answer_error(error, scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def identify(scope: Scope, keyring: Keyring) -> Key:
    """Return the key in the request's headers, never in its query. Raises Unauthorized."""
    presented = read_key(scope)
    if presented is None:
        raise Unauthorized(
            "The request has no API key.",
            remedy=f"Send the header 'Authorization: Bearer KEY' or '{KEY_HEADER}: KEY'.",
        )
    key = keyring.find(presented)
    if key is None:
        raise UnknownKey(
            "The API key is unknown.",
            remedy="Check the key, or ask the operator for one.",
        )
    return key


def read_key(scope: Scope) -> bytes | None:
    """Return the key of a request, or None.

    X-API-Key overrides Authorization, because a proxy may need Authorization for itself.
    """
    authorization = b""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return bytes(value)
        if name == b"authorization":
            authorization = value
    scheme, _, credentials = authorization.partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else None


def require_admin(request: Request) -> None:
    """Raise Forbidden unless the request has an admin's key; a dependency of admin routes."""
    caller: Key | None = request.scope.get("caller")
    if caller is None:
        raise Forbidden(
            "Administration needs an admin's key, and this server has no keys.",
            remedy="Set SEG_KEYS_FILE, with an admin's key: python -m app.keys NAME --admin",
        )
    if not caller.is_admin:
        raise Forbidden(
            f"The key of {caller.name} lacks the role admin.",
            remedy="Use an admin's key: python -m app.keys NAME --admin",
        )


def describe_keys(app: FastAPI) -> None:
    """Add to the OpenAPI document which paths require a key, and how it is sent."""
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
