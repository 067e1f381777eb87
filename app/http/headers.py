"""The response headers for browsers: security headers and, if configured, CORS.

Plain ASGI with precomputed headers. Knows nothing of routes: a response that sets one of these
headers itself, as a page does with its policy, keeps its own value.
"""

from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import PreflightRefused
from app.http.problems import answer_bug, answer_error

# From OWASP's REST Security cheat sheet. Strict-Transport-Security is up to the TLS proxy.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)

KEY_HEADER = "X-API-Key"
"""The request header for an API key, an alternative to Authorization."""

MAX_SHOWN_CHARACTERS = 200
"""The limit of what an error repeats of a header."""

CORS_METHODS = ("GET", "POST")
CORS_REQUEST_HEADERS = ("Authorization", KEY_HEADER, "X-Request-ID", "X-Request-Timeout")
CORS_ANSWER_HEADERS = (
    "X-Request-ID",
    "X-Weights-Digest",
    "X-Mask-Shape",
    "Server-Timing",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
)


class SecurityHeaders:
    """Middleware around all others: adds the security headers that a response lacks."""

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


class _Refused(Exception):
    """A refused preflight, with the CORS headers of its answer."""

    def __init__(self, error: PreflightRefused, headers: dict[str, str]) -> None:
        super().__init__(error.detail)
        self.error = error
        self.headers = headers


class Cors(CORSMiddleware):
    """Starlette's CORS middleware, but a refused preflight is answered with a problem detail."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except _Refused as refused:
            response = answer_error(refused.error, scope)
            response.headers.update(refused.headers)
            await response(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        own = ("content-length", "content-type")
        raise _Refused(
            _explain_refusal(request_headers, bytes(response.body).decode()),
            {name: value for name, value in response.headers.items() if name not in own},
        )


def _explain_refusal(headers: Headers, failures: str) -> PreflightRefused:
    """Return the error for the first part of a preflight that Starlette names as disallowed."""
    for part, field, remedy in (
        ("origin", "Origin", "The operator names the allowed origins in SEG_CORS_ORIGINS."),
        ("method", "Access-Control-Request-Method", f"Use {' or '.join(CORS_METHODS)}."),
        (
            "headers",
            "Access-Control-Request-Headers",
            f"Send no headers of your own except {', '.join(CORS_REQUEST_HEADERS)}.",
        ),
    ):
        if part in failures:
            value = headers.get(field, "")[:MAX_SHOWN_CHARACTERS]
            return PreflightRefused(f"{field} {value!r} is not allowed.", remedy=remedy)
    return PreflightRefused(f"{failures}.", remedy="Send the request from a page of this server.")


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Allow browsers to use the API from pages of these origins.

    CORS is outside of the key check, because a preflight carries no key and a page must be able to
    read a 401. A crash is answered inside of CORS for the same reason, and logged outside of it.
    """

    async def answer_crash(request: Request, _: Exception) -> Response:
        return answer_bug(request.url.path)

    app.add_middleware(ServerErrorMiddleware, handler=answer_crash)
    app.add_middleware(
        Cors,
        allow_origins=origins,
        allow_methods=CORS_METHODS,
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_ANSWER_HEADERS,
    )
