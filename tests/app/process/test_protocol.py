"""A real server answers every complete request, whatever else its connection does."""

import re
import shutil
import socket
import struct
import subprocess

import pytest

from app.process import protocol
from tests.app.conftest import connected, metric, serving, wait_for_metric
from tests.app.faulty import command
from tests.app.process.test_connections import CHUNKED, everything, problem
from tests.app.process.test_framing import TRAILERS, UPGRADES, request
from tests.app.test_faults import faulty_server, held  # noqa: F401, a fixture
from tests.conftest import PHOTO, REPOSITORY

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
ALIVE = b'{"status":"alive"}'


def asked(server, *parts, half_close=True):
    """All that the server sends for these bytes until it closes the connection."""
    with connected(server) as connection:
        for part in parts:
            connection.sendall(part)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return everything(connection)


@pytest.fixture(scope="module")
def mask(client):
    return client.post("/v1/segment", content=PHOTO.read_bytes()).content


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("chunks", [None, [1000, 3000]])
def test_an_upgrade_is_not_offered_and_its_request_is_answered(server, mask, upgrade, chunks):
    photo = request(PHOTO.read_bytes(), fields=upgrade, chunks=chunks)
    answer = asked(server, photo + LIVE)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.count(b"HTTP/1.1 ") == 2
    assert mask in answer
    assert answer.endswith(ALIVE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_may_ask_for_http_2(server, mask, tmp_path):
    got = tmp_path / "mask.png"
    photo = f"file=@{PHOTO}"
    url = f"{server.address}/v1/segment"
    curl = ["curl", "--http2", "-sS", "--fail", "-F", photo, url, "-o", str(got)]
    subprocess.run(curl, check=True, cwd=REPOSITORY)
    assert got.read_bytes() == mask


def test_trailers_change_nothing(server, mask):
    photo = request(PHOTO.read_bytes(), chunks=[5000], trailers=TRAILERS)
    assert mask in asked(server, photo)


def test_answers_do_not_depend_on_how_the_bytes_are_divided(server):
    tiny = request(command((1, 2, 3), (8, 8)), chunks=[10], trailers=TRAILERS, fields=UPGRADES[0])
    whole = asked(server, tiny)
    body = whole.partition(b"\r\n\r\n")[2]
    assert body
    for place in range(0, len(tiny), 7):
        assert asked(server, tiny[:place], tiny[place:]).endswith(body)


@pytest.mark.parametrize("bad", [b"zz\r\n", b"4\r\nsomething\r\n", b"4;" + b"a" * 300_000])
def test_a_bad_chunk_is_answered_with_a_problem(server, client, bad):
    before = client.get("/metrics").text
    answer = asked(server, CHUNKED + b"4\r\nsome\r\n" + bad, half_close=False)
    name = "head-too-large" if len(bad) > 100 else "bad-request"
    assert problem(answer) == name
    assert re.search(rb"^x-request-id: ", answer, re.M)
    assert re.search(rb"^connection: close\r$", answer, re.M)
    counted = f'seg_rejections_total{{reason="{name}"}}'
    earlier = metric(before, counted) if counted in before else 0
    assert metric(client.get("/metrics").text, counted) == earlier + 1


def test_a_bad_chunk_after_requests_in_flight_is_answered_after_them(server, mask):
    photo = request(PHOTO.read_bytes())
    answer = asked(server, photo + CHUNKED + b"zz\r\n" + LIVE, half_close=False)
    assert mask in answer
    assert answer.count(b"HTTP/1.1 ") == 2
    assert problem(answer) == "bad-request"


def test_a_bad_chunk_in_an_unread_body_closes_the_connection(server):
    get = b"GET /health/live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    assert asked(server, get, half_close=False).endswith(ALIVE)


@pytest.mark.parametrize(("coding", "status"), [(b"gzip", 400), (b"gzip, chunked", 501)])
def test_an_unknown_transfer_coding_is_answered_with_a_problem(server, coding, status):
    head = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: %b\r\n\r\n" % coding
    answer = asked(server, head + b"4\r\nsome\r\n0\r\n\r\n", half_close=False)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert problem(answer) == ("bad-request" if status == 400 else "not-implemented")


@pytest.mark.parametrize("junk", [b"\x16\x03\x01junk\r\n\r\n", b"G" + b"E" * 70_000])
@pytest.mark.parametrize("half_close", [False, True])
def test_bytes_after_a_request_do_not_cost_it_its_answer(server, mask, junk, half_close):
    answer = asked(server, request(PHOTO.read_bytes()) + junk, half_close=half_close)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert mask in answer
    assert problem(answer) == "bad-request"


def test_an_early_answer_reaches_a_client_that_is_still_sending(server):
    head = (
        b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 3000000\r\n\r\n"
    )
    answer = asked(server, head, bytes(3_000_000), half_close=False)
    assert problem(answer) == "unsupported-type"


def test_a_client_that_half_closes_gets_every_answer(server, mask):
    photo = request(PHOTO.read_bytes())
    for rest in (b"", LIVE[:20], photo[:-1], LIVE + photo[:-1]):
        answer = asked(server, photo + LIVE + rest)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert mask in answer
        assert answer.endswith(ALIVE)
        assert answer.count(b"HTTP/1.1 200 ") == (3 if LIVE in rest else 2)


def test_a_long_wait_starts_with_the_head_of_the_answer(faulty_server, monkeypatch):  # noqa: F811
    client, server, engine = faulty_server
    monkeypatch.setattr(protocol, "ANSWER_BEGINS_AFTER_S", 0)
    expected = client.post("/v1/segment", content=command((1, 2, 3))).content
    stuck = held(engine, client)
    with connected(server) as connection:
        connection.sendall(request(command((1, 2, 3))))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b"HTTP/1.1 "
        engine.release.set()
        rest = everything(connection)
    assert rest.startswith(b"200 OK\r\n")
    assert rest.endswith(b"\r\n\r\n" + expected)
    stuck.join()


def close(connection):
    connection.close()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send_no_more_then_reset(connection):
    connection.shutdown(socket.SHUT_WR)
    reset(connection)


def listen_and_then_reset(connection):
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(100) == b"HTTP/1.1 "
    reset(connection)


@pytest.mark.parametrize("leave", [close, reset, send_no_more_then_reset, listen_and_then_reset])
@pytest.mark.parametrize("behind", [b"", LIVE])
def test_a_disconnected_request_leaves_the_queue(faulty_server, leave, behind):  # noqa: F811
    client, server, engine = faulty_server
    stuck = held(engine, client)
    with connected(server) as connection:
        connection.sendall(request(command((1, 2, 3))) + behind)
        wait_for_metric(server, "seg_queue_depth", 1)
        leave(connection)
        wait_for_metric(server, "seg_queue_depth", 0)
    engine.release.set()
    stuck.join()
    text = client.get("/metrics").text
    assert metric(text, 'seg_dropped_total{stage="queue"}') == 1
    assert metric(text, "seg_in_flight") == 0


def test_a_client_that_half_closes_within_its_body_has_disconnected(settings):
    with serving(settings) as (client, server):
        assert asked(server, request(PHOTO.read_bytes())[:-1]) == b""
        assert metric(client.get("/metrics").text, 'seg_dropped_total{stage="read"}') == 1
