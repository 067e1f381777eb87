"""What browsers are told with every answer: security headers and, where configured, CORS.

Plain ASGI, with everything computed beforehand. Knows nothing of routes: an answer that needs a
policy of its own, such as a page, sets the header itself and keeps it.
"""

from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access import KEY_HEADER
from app.errors import internal_error_response

# By OWASP's REST Security cheat sheet. Strict-Transport-Security is for who terminates TLS.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

CORS_METHODS = ("GET", "POST")
CORS_REQUEST_HEADERS = ("Authorization", KEY_HEADER, "X-Request-ID", "X-Request-Timeout")
CORS_ANSWER_HEADERS = (
    "X-Request-ID",
    "X-Weights-Digest",
    "Server-Timing",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
)


class SecurityHeaders:
    """Middleware, outside of everything that answers: adds those headers that are not there."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}  # Starlette's are in lower case
                missing = (header for header in SECURITY_HEADERS if header[0] not in given)
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        await self.app(scope, receive, send_secured)


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let browsers use the API from pages of these origins.

    Outside of the key check, for a preflight carries no key, and a page must be able to read a 401.
    A crash is answered inside of it, for the same reason, and goes on to be logged.
    """

    async def answer_crash(_: Request, __: Exception) -> Response:
        return internal_error_response()

    app.add_middleware(ServerErrorMiddleware, handler=answer_crash)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=CORS_METHODS,
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_ANSWER_HEADERS,
    )
