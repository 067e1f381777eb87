"""Traces for OpenTelemetry: a span for each request, with a child span for each of its stages.

Continues the client's trace (W3C Trace Context). Imports OpenTelemetry only if traces are on. Sets
no global provider, so that instrumented libraries create no spans. Knows nothing of images.
"""

import os
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from app import __version__
from app.observability.stages import LAST, Stages

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span, Tracer

SERVICE_NAME = "segmentation"
"""The name of the service; OTEL_SERVICE_NAME overrides it."""

OTLP_PROTOCOL = "http/protobuf"
PROTOCOL_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

LAST_EXPORT_S = 2.0
"""The time to send the last spans when the process ends; if the collector is down, they get lost.
"""


class TracesError(Exception):
    """Traces cannot be sent: a package is missing, or a variable OTEL_... cannot be used."""


class TracedStages(Stages):
    """Stages that are also child spans of their request's span, or of the span of a file."""

    def __init__(self, tracer: "Tracer", span: "Span", first: str = "accept") -> None:
        from opentelemetry.trace import set_span_in_context

        super().__init__(first)
        self.span = span
        self._tracer = tracer
        self._context = set_span_in_context(span)
        self._current = self._start(first)

    def enter(self, stage: str, *, ago_s: float = 0) -> None:
        super().enter(stage, ago_s=ago_s)
        moment_ns = time.time_ns() - round(1e9 * (time.perf_counter() - self._since))
        self._current.end(moment_ns)
        if stage != LAST:
            self._current = self._start(stage, moment_ns)

    def open_part(self) -> Stages:
        return _Part(self._tracer, self._start("file"), "turn")

    def _start(self, name: str, moment_ns: int | None = None) -> "Span":
        return self._tracer.start_span(name, self._context, start_time=moment_ns)


class _Part(TracedStages):
    """The stages of one of several files; the file's span ends with the last stage."""

    def enter(self, stage: str, *, ago_s: float = 0) -> None:
        super().enter(stage, ago_s=ago_s)
        if stage == LAST:
            self.span.end()


class Traces:
    """Creates the spans of requests, and sends them in the background until it is closed."""

    def __init__(self, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=make_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("segmentation", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> TracedStages:
        """Start a request's span, which continues the client's trace, and return its stages."""
        from opentelemetry.trace import SpanKind

        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in headers
            if name in (b"traceparent", b"tracestate")
        }
        span = self._tracer.start_span(
            method, self._propagator.extract(carrier), kind=SpanKind.SERVER
        )
        return TracedStages(self._tracer, span)

    def end(
        self, stages: TracedStages, *, name: str, status: int, attributes: Mapping[str, str]
    ) -> None:
        """End the span of a request whose stages have ended."""
        from opentelemetry.trace import StatusCode

        stages.span.update_name(name)
        stages.span.set_attributes({"http.response.status_code": status, **attributes})
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            stages.span.set_status(StatusCode.ERROR)
        stages.span.end()

    def close(self) -> None:
        """Send the last spans. Blocks for as long as the collector hangs."""
        self._provider.shutdown()


def get_trace_ids(stages: TracedStages) -> dict[str, str]:
    """Return the ids of the trace and of the request's span, for the request's log lines."""
    context = stages.span.get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}


def open_traces() -> Traces:
    """Return traces that are sent to the collector of the variables OTEL_... Raises TracesError."""
    for variable in PROTOCOL_VARIABLES:
        if (protocol := os.environ.get(variable) or OTLP_PROTOCOL) != OTLP_PROTOCOL:
            raise TracesError(f"{variable}={protocol}: only {OTLP_PROTOCOL} is supported")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise TracesError(
            "SEG_TRACES needs OpenTelemetry: pip install opentelemetry-sdk "
            "opentelemetry-exporter-otlp-proto-http"
        ) from error
    try:
        return Traces(BatchSpanProcessor(OTLPSpanExporter()))
    except ValueError as error:  # from the exporter or the processor
        raise TracesError(f"the variables OTEL_... cannot be used: {error}") from error


def make_resource() -> "Resource":
    """Return the attributes of this process; the variables of OpenTelemetry override them."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    own: dict[str, str | int] = {
        "service.name": SERVICE_NAME,
        "service.version": __version__,
        "process.pid": os.getpid(),
    }
    return Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())
