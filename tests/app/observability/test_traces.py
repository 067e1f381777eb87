"""Traces arrive at an OTLP collector. If they are off, OpenTelemetry is not imported."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is missing")

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.http.telemetry import RequestTelemetry
from app.observability.metrics import Metrics
from app.observability.traces import Traces, TracesError, open_traces
from tests.app.conftest import serving
from tests.app.observability.collector import collecting, read_attributes
from tests.app.test_program import logged, program
from tests.conftest import PHOTO, REPOSITORY

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
SERVER = Span.SPAN_KIND_SERVER
STAGES = ["accept", "read", "decode", "queue", "inference", "encode", "send"]


@pytest.fixture
def collector(monkeypatch):
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        yield collector


def children_of(parent, spans):
    """The spans within this one, by their start."""
    found = [span for span in spans if span.parent_span_id == parent.span_id]
    return sorted(found, key=lambda span: span.start_time_unix_nano)


def test_a_callers_trace_continues_with_a_span_for_each_stage(settings, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with serving(settings.model_copy(update={"traces": True})) as (client, _):
        answer = client.post("/v1/segment", content=PHOTO.read_bytes(), headers=TRACEPARENT)
        assert answer.status_code == 200
        client.get("/health/ready")
        client.get("/metrics")
    spans = [span for _, span in collector.spans]
    (request,) = [span for span in spans if span.kind == SERVER]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert request.name == "POST /v1/segment"
    attributes = read_attributes(request)
    assert attributes["http.response.status_code"] == 200
    assert attributes["http.route"] == "/v1/segment"
    assert attributes["segmentation.request_id"] == answer.headers["X-Request-ID"]
    stages = children_of(request, spans)
    assert [span.name for span in stages] == STAGES
    assert {span.trace_id.hex() for span in stages} == {TRACE}
    assert len(spans) == 1 + len(stages), "probes have no trace"
    resource, _ = collector.spans[0]
    assert resource["service.name"] == "segmentation"
    assert resource["deployment.environment.name"] == "test"
    assert collector.headers[0]["x-tenant"] == "7"


def test_the_files_of_a_batch_have_spans_of_their_own(settings, collector, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "masks")
    with serving(settings.model_copy(update={"traces": True})) as (client, _):
        files = [("files", ("a.jpg", PHOTO.read_bytes())), ("files", ("b", b"no image"))]
        assert client.post("/v1/segment/batch", files=files).status_code == 200
    spans = [span for _, span in collector.spans]
    (request,) = [span for span in spans if span.kind == SERVER]
    stages = children_of(request, spans)
    assert [span.name for span in stages if span.name != "file"] == [
        "accept", "read", "files", "encode", "send"
    ]  # fmt: skip
    names = [
        [span.name for span in children_of(file, spans)] for file in stages if file.name == "file"
    ]
    assert sorted(names) == [["turn", "decode"], ["turn", *STAGES[2:6]]]
    assert all(span.end_time_unix_nano for span in spans)
    assert collector.spans[0][0]["service.name"] == "masks"


def start_workers(process, count):
    """Wait until all are ready; return their ids and the address."""
    workers, addresses = [], []
    while len(addresses) < count:
        entry = json.loads(process.stderr.readline())
        if entry["event"] == "worker started":
            workers.append(entry["worker"])
        elif entry["event"] == "ready":
            addresses.append(entry["address"])
    return workers, addresses[0]


@contextmanager
def stopped(pid):
    """Stop a process, so that others accept the connections."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()
    yield
    os.kill(pid, signal.SIGCONT)


def test_every_worker_sends_its_traces_and_logs_their_ids(weights_file, collector):
    settings = {"workers": 2, "threads": 1, "traces": 1, "log_format": "json", "port": 0}
    with program(weights=weights_file, device="cpu", **settings) as process:
        workers, address = start_workers(process, 2)
        for other in workers:
            with stopped(other):
                answer = httpx.get(f"{address}/v1/model", headers=TRACEPARENT, timeout=300)
            assert answer.status_code == 200
        lines = [logged(process, "request") for _ in workers]
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    found = [(resource, span) for resource, span in collector.spans if span.kind == SERVER]
    assert [span.name for _, span in found] == ["GET /v1/model"] * 2
    assert {resource["process.pid"] for resource, _ in found} == set(workers)
    assert {span.trace_id.hex() for _, span in found} == {TRACE}
    assert {span.span_id.hex() for _, span in found} == {line["span_id"] for line in lines}
    assert {line["trace_id"] for line in lines} == {TRACE}


@pytest.fixture
def spans():
    """Calls an application with telemetry, and returns its finished spans."""

    def ask(app, *, headers=(), path="/v1/segment"):
        exporter = InMemorySpanExporter()
        traces = Traces(SimpleSpanProcessor(exporter))
        telemetry = RequestTelemetry(app, metrics=Metrics(), traces=traces)

        async def run():
            transport = httpx.ASGITransport(telemetry)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                await client.get(path, headers=headers)
            traces.close()

        asyncio.run(run())
        return exporter.get_finished_spans()

    return ask


async def answer_well(scope, receive, send):
    scope["stages"].enter("work")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def crash(scope, receive, send):
    raise RuntimeError("a secret")


def test_a_crash_is_an_error_in_its_trace_without_its_message(spans):
    *_, request = spans(crash)
    assert request.attributes["http.response.status_code"] == 500
    assert request.status.status_code.value == Status.STATUS_CODE_ERROR
    assert not request.events
    assert "secret" not in request.to_json()


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00-0-0-01",
        f"00-{'0' * 32}-{PARENT}-01",
        "ff" + TRACEPARENT["traceparent"][2:],
        "é" * 99,
    ],
)
def test_an_invalid_traceparent_starts_a_new_trace(spans, traceparent):
    *_, request = spans(answer_well, headers=[(b"traceparent", traceparent.encode())])
    assert request.parent is None
    assert request.context.trace_id


def test_the_callers_choice_not_to_record_is_kept(spans):
    header = (b"traceparent", f"00-{TRACE}-{PARENT}-00".encode())
    assert spans(answer_well, headers=[header]) == ()


def test_a_long_path_is_cut(spans):
    *_, request = spans(answer_well, path="/" + "a" * 5000)
    assert len(request.attributes["url.path"]) == 200
    assert request.name == "GET unmatched"


def test_shutting_down_does_not_wait_for_an_unreachable_collector(settings, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    with serving(settings.model_copy(update={"traces": True})) as (client, _):
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is supported"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1", "OTEL_"),
    ],
)
def test_an_unsupported_variable_is_named(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(TracesError, match=message):
        open_traces()


def test_a_missing_package_is_one_clear_line(weights_file):
    script = """
import sys
sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
from app.__main__ import main
main()
"""
    environment = {"SEG_TRACES": "1", "SEG_PORT": "0", "SEG_WEIGHTS": str(weights_file)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: cannot start: SEG_TRACES needs OpenTelemetry: pip install"
    )


def test_without_traces_opentelemetry_is_not_imported():
    script = (
        "import json, sys\n"
        "from app.main import create_app\n"
        "from app.settings import Settings\n"
        "create_app(Settings())\n"
        "print(json.dumps([n for n in sys.modules if n.startswith('opentelemetry.')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert not [n for n in loaded if n.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
