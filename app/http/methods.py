"""HEAD for every route that has GET: the same answer without its body (RFC 9110, 9.3.2).

Plain ASGI. The connection omits the body. Knows nothing of routes.
"""

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Middleware: turns HEAD into GET for the inner layers.

    Outer middleware still sees HEAD, together with what inner layers add to the scope.
    """

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


def add_head(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of a 405 with HEAD in Allow if GET is allowed."""
    headers = dict(headers or {})
    allowed = headers.get("Allow", "").split(", ")
    if "GET" in allowed and "HEAD" not in allowed:
        headers["Allow"] = ", ".join(sorted([*allowed, "HEAD"]))
    return headers
