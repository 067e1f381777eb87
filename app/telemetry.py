"""What an operator sees: Prometheus metrics, structured logs, a request id in every answer.

Watches requests from outside, as plain ASGI; knows nothing of images or engines.
"""

import logging
import re
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer

from app.errors import internal_error_response

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

STATUS_CLIENT_LEFT = 499
"""In metrics and logs only, as nginx writes it: nobody is there to read an answer."""

# A caller's own id is kept if it cannot be anything but an id.
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Telemetry:
    """The metrics of one application, in a registry of their own, and its log."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.log = structlog.get_logger("segmentation")
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "seg_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "seg_request_seconds",
            "Time from the first byte to the last",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "seg_stage_seconds",
            "Time of one stage of a segmentation",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "seg_batch_size", "Images in one engine call", buckets=BATCH_SIZES, registry=registry
        )
        self.queue_depth = Gauge(
            "seg_queue_depth", "Images that wait for the engine", registry=registry
        )
        self.in_flight = Gauge(
            "seg_in_flight", "Admitted requests that are not answered yet", registry=registry
        )
        self.rejections = Counter(
            "seg_rejections", "Requests answered with a problem", ["reason"], registry=registry
        )
        self.dropped = Counter(
            "seg_dropped", "Requests whose caller left, by stage", ["stage"], registry=registry
        )
        self.ready = Gauge("seg_ready", "1 while the server takes requests", registry=registry)
        self.model_info = Gauge(
            "seg_model_info", "The weights that serve", ["digest", "engine"], registry=registry
        )


class Stages:
    """The durations of one request's stages, in seconds and in order, and where it is now."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.current = "read"

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        self.current = stage
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started

    def server_timing(self) -> str:
        """The value of a Server-Timing header; its durations are in milliseconds."""
        return ", ".join(f"{stage};dur={1000 * s:.2f}" for stage, s in self.seconds.items())

    def observe(self, telemetry: Telemetry) -> None:
        for stage, seconds in self.seconds.items():
            telemetry.stage_seconds.labels(stage).observe(seconds)


class RequestTelemetry:
    """Middleware, the outermost: request id, metrics, one log line, and an answer to a crash."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watched = _WatchedRequest(scope, send)
        with structlog.contextvars.bound_contextvars(request_id=watched.request_id):
            try:
                await self.app(scope, receive, watched.send)
            except ClientDisconnect:
                scope["problem"], watched.status = "client-left", STATUS_CLIENT_LEFT
            except Exception:
                self.telemetry.log.exception("request failed", path=scope["path"])
                if not watched.status:
                    await internal_error_response()(scope, receive, watched.send)
            finally:
                self._record(scope, watched)

    def _record(self, scope: Scope, watched: "_WatchedRequest") -> None:
        seconds = time.perf_counter() - watched.started
        route = getattr(scope.get("route"), "path", "unmatched")
        self.telemetry.requests.labels(route, watched.status).inc()
        self.telemetry.request_seconds.labels(route).observe(seconds)
        if "problem" in scope:
            self.telemetry.rejections.labels(scope["problem"]).inc()
        quiet = route.startswith("/health") or route == "/metrics"
        self.telemetry.log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            method=scope["method"],
            path=scope["path"],
            status=watched.status,
            milliseconds=round(1000 * seconds, 2),
            **({"problem": scope["problem"]} if "problem" in scope else {}),
        )


class _WatchedRequest:
    """What becomes known of one request while its answer is sent."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.started = time.perf_counter()
        self.request_id = request_id(scope)
        self.status = 0
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["Date"] = http_date(int(time.time()))
            headers["X-Request-ID"] = self.request_id
        await self._send(message)


def request_id(scope: Scope) -> str:
    """The caller's X-Request-ID if it is a plain word, a new one otherwise."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if REQUEST_ID.fullmatch(text):
                return str(text)
    return uuid.uuid4().hex


@lru_cache(maxsize=1)
def http_date(seconds: int) -> str:
    """The Date header of an answer (RFC 9110, 6.6.1)."""
    return formatdate(seconds, usegmt=True)


def current_request_id() -> str:
    """Of the request that is being handled here; empty outside of any."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))


def configure_logging(*, level: str, log_format: str) -> None:
    """Send our events and those of libraries to standard error, all in one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    if log_format == "json":
        last: list[Any] = [
            # Without the frames' variables: they hold images and headers.
            ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("python_multipart").setLevel(logging.WARNING)
    logging.captureWarnings(True)
