"""Telemetry of each request: metrics, a log line, a request id and, if configured, a trace.

Plain ASGI around the application. Knows nothing of images or engines.
"""

import logging
import re
import time
import uuid
from email.utils import formatdate
from functools import lru_cache

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.paths import IMAGE_PATHS, is_probe
from app.http.problems import answer_bug
from app.observability.metrics import Metrics
from app.observability.stages import LAST, Stages
from app.observability.traces import TracedStages, Traces, get_trace_ids

STATUS_DISCONNECTED = 499
"""The status in metrics and logs if the client disconnected, as in nginx's log; never sent."""

MAX_PATH_CHARACTERS = 200
"""A longer path is truncated in traces."""

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""An X-Request-ID of any other form is replaced."""

log = structlog.get_logger("segmentation")


class RequestTelemetry:
    """Middleware: sets the request id, counts and logs the request, and answers a crash.

    Only SecurityHeaders is outside of it, because the answer to a crash needs these headers, too.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, traces: Traces | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self.traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["stages"] = stages = self._begin(scope)
        watched = _WatchedRequest(scope, send)
        ids = get_trace_ids(stages) if isinstance(stages, TracedStages) else {}
        with structlog.contextvars.bound_contextvars(request_id=watched.request_id, **ids):
            try:
                await self.app(scope, receive, watched.send)
            except ClientDisconnect:
                watched.status = STATUS_DISCONNECTED
                self.metrics.dropped.labels(stages.current).inc()
            except Exception:
                log.exception("request failed", path=scope["path"])
                if not watched.status:
                    await answer_bug(scope["path"])(scope, receive, watched.send)
            finally:
                self._record(scope, watched)

    def _begin(self, scope: Scope) -> Stages:
        if self.traces is None or is_probe(scope["path"]):
            return Stages()
        return self.traces.begin(scope["method"], scope["headers"])

    def _record(self, scope: Scope, watched: "_WatchedRequest") -> None:
        """Count a request that has ended, end its trace, and log it."""
        stages: Stages = scope["stages"]
        stages.enter(LAST)
        seconds = sum(stages.seconds.values())
        is_image = scope["path"] in IMAGE_PATHS
        route = scope["path"] if is_image else getattr(scope.get("route"), "path", "unmatched")
        self.metrics.requests.labels(route, watched.status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        problem = "client-left" if watched.status == STATUS_DISCONNECTED else scope.get("problem")
        if "problem" in scope:
            self.metrics.rejections.labels(scope["problem"]).inc()
        if is_image:
            for stage, stage_seconds in stages.seconds.items():
                self.metrics.stage_seconds.labels(stage).observe(stage_seconds)
        if self.traces is not None and isinstance(stages, TracedStages):
            self.traces.end(
                stages,
                name=f"{scope['method']} {route}",
                status=watched.status,
                attributes={
                    "http.request.method": scope["method"],
                    "http.route": route,
                    "url.path": scope["path"][:MAX_PATH_CHARACTERS],
                    "url.scheme": scope["scheme"],
                    "segmentation.request_id": watched.request_id,
                    **({"error.type": problem} if problem else {}),
                },
            )
        log.log(
            logging.DEBUG if is_probe(route) else logging.INFO,
            "request",
            method=scope["method"],
            path=scope["path"],
            status=watched.status,
            milliseconds=round(1000 * seconds, 2),
            **({"caller": scope["caller"].name} if "caller" in scope else {}),
            **({"problem": problem} if problem else {}),
            **scope.get("notes", {}),
        )


class _WatchedRequest:
    """The request id and the status of one request."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = find_request_id(scope)
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            headers = MutableHeaders(scope=message)
            headers["Date"] = format_date(int(time.time()))
            headers["X-Request-ID"] = self.request_id
        await self._send(message)


def find_request_id(scope: Scope) -> str:
    """Return the client's X-Request-ID if it is valid, or a new id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            if REQUEST_ID.fullmatch(text):
                return text
    return uuid.uuid4().hex


@lru_cache(maxsize=1)
def format_date(seconds: int) -> str:
    """Return the value of a Date header (RFC 9110, 6.6.1)."""
    return formatdate(seconds, usegmt=True)
