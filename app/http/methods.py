"""HEAD, wherever GET is: the same answer without its body (RFC 9110, 9.3.2).

Plain ASGI. Leaving the body out is the connection's part; knows nothing of routes.
"""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Middleware: what is inside sees GET; the scope outside keeps HEAD and all that was added."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        inside = {**scope, "method": "GET"}
        try:
            await self.app(inside, receive, send)
        finally:
            scope.update({**inside, "method": "HEAD"})


def with_head(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Of a 405: where GET is allowed, so is HEAD, which no route names."""
    headers = dict(headers or {})
    allowed = headers.get("Allow", "").split(", ")
    if "GET" in allowed and "HEAD" not in allowed:
        headers["Allow"] = ", ".join(sorted([*allowed, "HEAD"]))
    return headers
