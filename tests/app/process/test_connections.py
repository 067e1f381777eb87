"""Clients of a real server that send slowly or endlessly, are too many, or do not read."""

import io
import json
import re
import socket
import threading
from contextlib import ExitStack

import httpx
import pytest
from PIL import Image

from app.process import connections, protocol
from tests.app.conftest import changes, connected, metric, read_metric, serving
from tests.conftest import PHOTO

SHORT_S = 0.5


@pytest.fixture(scope="module")
def impatient(settings):
    """A server whose every time limit is short."""
    patience = pytest.MonkeyPatch()
    patience.setattr(protocol, "LINGER_S", SHORT_S)
    short = {"head_timeout_s": SHORT_S, "send_timeout_s": SHORT_S, "idle_timeout_s": 1}
    with serving(settings.model_copy(update=short)) as (client, server):
        yield client, server
    patience.undo()


def everything(connection):
    """All that the server sends until it closes the connection."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def problem(answer):
    """Status and problem details of the last answer in these bytes."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head.lower()
    assert re.search(rb"^date: \w{3}, ", head.lower(), re.M)
    details = json.loads(body)
    assert b"HTTP/1.1 %d " % details["status"] in head
    return details["type"].rpartition(":")[2]


def post(length):
    return f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def test_a_slow_head_is_answered_and_its_connection_closed(impatient):
    _, server = impatient
    with connected(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert problem(everything(connection)) == "request-timeout"


def test_hundreds_of_slow_heads_delay_no_other_client(impatient):
    client, server = impatient
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(server)) for _ in range(300)]
        for connection in slow:
            connection.sendall(b"G")
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200
        for connection in slow:
            assert problem(everything(connection)) == "request-timeout"
    assert client.get("/health/live").status_code == 200


def test_a_connection_that_is_never_used_is_closed(impatient):
    _, server = impatient
    with connected(server) as connection:
        assert everything(connection) == b""


@pytest.mark.parametrize("rest", [b"", b"\r\n", b"GET /he"])
def test_a_connection_is_closed_when_it_is_idle_after_an_answer(impatient, rest):
    _, server = impatient
    with connected(server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        if rest:
            connection.sendall(rest)
            assert problem(everything(connection)) == "request-timeout"
        else:
            assert everything(connection) == b""


def test_a_body_that_is_late_for_the_deadline_is_answered(settings):
    with serving(settings.model_copy(update={"deadline_s": SHORT_S})) as (client, server):
        with connected(server) as connection:
            connection.sendall(post(1000) + b"some")
            assert problem_in(connection) == "request-timeout"
        assert (
            metric(client.get("/metrics").text, 'seg_rejections_total{reason="request-timeout"}')
            == 1
        )
        assert metric(client.get("/metrics").text, "seg_upload_bytes") == 0


def problem_in(connection):
    """The problem of the next answer, on a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        received += connection.recv(65536)
    return problem(received)


def test_the_rest_of_a_refused_body_has_a_time_limit_too(impatient):
    _, server = impatient
    with connected(server) as connection:
        connection.sendall(post(10**9) + b"some")
        assert problem(everything(connection)) == "body-too-large"


def test_a_connection_is_reused_after_a_refused_body(impatient):
    _, server = impatient
    with connected(server) as connection:
        connection.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
            b"Content-Length: 8\r\n\r\nsome"
        )
        assert problem_in(connection) == "unsupported-type"
        connection.sendall(b"more")
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Many: a\r\n" * 10_000 + b"\r\n",
    ],
    ids=["path", "field", "fields"],
)
def test_an_endless_head_is_refused(impatient, head):
    _, server = impatient
    with connected(server) as connection:
        connection.sendall(head)
        assert problem(everything(connection)) == "head-too-large"


CHUNKED = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"5;" + b"a" * 300_000, id="extension"),
        pytest.param(b"0\r\nX-Long: " + b"a" * 300_000, id="trailer"),
    ],
)
def test_chunk_headers_and_trailers_are_bounded(impatient, rest):
    client, server = impatient
    with connected(server) as connection:
        connection.sendall(CHUNKED + b"4\r\nsome\r\n" + rest)
        everything(connection)  # it ends
    assert client.get("/health/live").status_code == 200


def test_a_chunked_body_is_counted_while_it_arrives(settings):
    small = settings.model_copy(update={"max_body_bytes": 1024})
    with serving(small) as (_, server), connected(server) as connection:
        connection.sendall(CHUNKED + b"800\r\n" + b"a" * 0x800)
        assert problem_in(connection) == "body-too-large"


def test_pipelined_requests_are_answered_and_bounded(impatient):
    client, server = impatient
    ask = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(server) as connection:
        connection.sendall(10 * ask)
        received = b""
        while received.count(b"HTTP/1.1 200") < 10:
            received += connection.recv(65536)
    with connected(server) as connection:
        connection.sendall(1000 * ask)
        assert everything(connection).count(b"HTTP/1.1 200") <= connections.MAX_PIPELINED + 1
    assert metric(client.get("/metrics").text, 'seg_rejections_total{reason="bad-request"}') >= 1


def test_an_invalid_request_is_answered_with_a_problem(impatient):
    _, server = impatient
    with connected(server) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert problem(everything(connection)) == "bad-request"


def test_an_answer_that_is_not_read_is_dropped(impatient):
    client, server = impatient
    before = metric(client.get("/metrics").text, "seg_connections")
    url = httpx.URL(server.address)
    picture = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(picture, "PNG")
    body = picture.getvalue()
    request = post(len(body)).replace(b"/segment ", b"/segment?format=json&max_side=64 ") + body
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((url.host, url.port))
        for _ in range(2):  # answers of 8 MB: more than what the system's buffers hold
            connection.sendall(request)
        connection.settimeout(30)
        closed = threading.Event()
        while not closed.is_set():
            if metric(client.get("/metrics").text, "seg_connections") == before:
                closed.set()


def test_connections_above_the_limit_get_a_problem(settings):
    with serving(settings.model_copy(update={"max_connections": 3})) as (client, server):
        assert client.get("/health/live").status_code == 200  # holds one
        with ExitStack() as stack:
            for _ in range(2):
                stack.enter_context(connected(server))
            refused = stack.enter_context(connected(server))
            assert problem(everything(refused)) == "too-many-connections"
            assert metric(client.get("/metrics").text, "seg_connections_refused_total") == 1
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200


def test_the_operations_port_answers_when_all_connections_are_in_use(settings):
    limits = {"max_connections": 1, "operations_port": 0}
    with serving(settings.model_copy(update=limits)) as (client, server):
        assert client.get("/health/live").status_code == 404
        with httpx.Client(base_url=server.operations_address) as operations:
            for path in ("/health/live", "/health/ready", "/metrics"):
                assert operations.get(path).status_code == 200
            assert operations.get("/v1/model").status_code == 404
            assert operations.post("/v1/segment", content=b"x").status_code == 404
            assert client.get("/v1/model").status_code == 200


def test_uploads_are_bounded_together(settings):
    body = PHOTO.read_bytes()
    limits = {"max_queue_bytes": len(body) + 2000}
    with serving(settings.model_copy(update=limits)) as (client, server):
        with connected(server) as holding:
            holding.sendall(post(len(body)) + body[:4000])
            changes.wait_until(lambda: read_metric(server, "seg_upload_bytes") >= 4000)
            refused = client.post("/v1/segment", content=body)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert (
                metric(client.get("/metrics").text, 'seg_rejections_total{reason="upload-bytes"}')
                == 1
            )
            holding.sendall(body[4000:])
            assert holding.recv(100).startswith(b"HTTP/1.1 200")
        assert client.post("/v1/segment", content=body).status_code == 200
        assert metric(client.get("/metrics").text, "seg_upload_bytes") == 0
