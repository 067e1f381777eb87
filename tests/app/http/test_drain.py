"""Draining: requests that cannot be answered in time get a problem, and the process ends."""

import os
import re
import select
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from app.codecs import decode
from tests.app import faulty
from tests.app.conftest import connected, metric, serving, wait_for_metric, wait_for_rest
from tests.app.corpus import picture, saved
from tests.app.faulty import STUCK, command
from tests.app.process.test_connections import everything, problem
from tests.app.process.test_framing import request
from tests.app.test_faults import PATIENT, faulty_program, held
from tests.app.test_program import logged, program

GOOD = command((10, 200, 30))
PAGE = "https://app.example"


def refused(answer):
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer
    assert b"\r\nconnection: close\r\n" in answer
    assert problem(answer) == "not-ready"
    return True


def test_requests_that_cannot_be_answered_before_the_drain_limit_get_a_problem(
    settings, monkeypatch
):
    """Requests in the engine, in the queue, in a decoder, and during the upload."""
    monkeypatch.setattr("app.loading.open_predictor", faulty.open_faulty_predictor)
    decode_image, decoding, goes_on = decode.decode_image, threading.Event(), threading.Event()

    def gated(data, **options):
        if data.endswith(b"gated"):
            decoding.set()
            goes_on.wait()
        return decode_image(data, **options)

    monkeypatch.setattr(decode, "decode_image", gated)
    short = PATIENT | {"drain_timeout_s": 0, "cors_origins": PAGE}
    with serving(settings.model_copy(update=short)) as (_, server), ExitStack() as stack:
        engine = server.service.predictor.engine
        origin = b"Origin: %b\r\n" % PAGE.encode()
        opened = []
        for body in (command(STUCK), GOOD, faulty.jpeg() + b"gated"):
            connection = stack.enter_context(connected(server))
            opened.append(connection)
            connection.sendall(request(body, fields=origin))
            if not engine.is_stuck.is_set():
                assert engine.is_stuck.wait(30)
        wait_for_metric(server, "seg_queue_depth", 1)
        assert decoding.wait(30)
        uploading = stack.enter_context(connected(server))
        uploading.sendall(request(GOOD, fields=origin + b"Expect: 100-continue\r\n")[:-1])
        assert uploading.recv(100).startswith(b"HTTP/1.1 100 ")
        server.should_exit = True
        for connection in (*opened, uploading):
            answer = everything(connection)
            assert refused(answer)
            assert b"\r\naccess-control-allow-origin: %b\r\n" % PAGE.encode() in answer
        engine.release.set()
        goes_on.set()
        wait_for_rest(server)
    text = server.service.metrics.export().decode()
    assert metric(text, 'seg_rejections_total{reason="not-ready"}') == 4


def test_requests_that_can_be_answered_before_the_drain_limit_are(settings, monkeypatch):
    monkeypatch.setattr("app.loading.open_predictor", faulty.open_faulty_predictor)
    with serving(settings.model_copy(update=PATIENT)) as (client, server):
        engine = server.service.predictor.engine
        stuck = held(engine, client)
        with connected(server) as connection:
            connection.sendall(request(GOOD))
            wait_for_metric(server, "seg_queue_depth", 1)
            server.should_exit = True
            wait_for_metric(server, "seg_ready", 0)
            engine.release.set()
            assert everything(connection).startswith(b"HTTP/1.1 200 ")
        stuck.join()


def test_an_endless_decode_does_not_keep_the_process_alive(weights_file):
    settings = {"weights": weights_file, "drain_timeout_s": 1, "port": 0, "device": "cpu"}
    with program(module="tests.app.hanging", log_format="json", **settings) as process:
        with asking(process, faulty.jpeg()) as connection:
            logged(process, "decoding")
            process.send_signal(signal.SIGTERM)
            assert refused(everything(connection))
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_an_endless_batch_does_not_keep_the_process_alive(weights_file):
    settings = {"weights": weights_file, "drain_timeout_s": 1, "stuck_after_s": 600}
    with faulty_program(**settings) as process:
        with asking(process, command(STUCK)) as connection:
            logged(process, "in the engine")
            process.send_signal(signal.SIGTERM)
            assert refused(everything(connection))
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
def test_an_endless_decoder_process_does_not_keep_the_process_alive(weights_file):
    settings = {"weights": weights_file, "drain_timeout_s": 1, "port": 0, "device": "cpu"}
    body = saved(picture(), "PNG")
    with program(log_format="json", stuck_after_s=600, **settings) as process:
        url = logged(process, "ready")["address"]
        assert httpx.post(f"{url}/v1/segment", content=body, timeout=300).status_code == 200
        (decoder,) = decoders_of(process)
        watched = os.pidfd_open(decoder)
        os.kill(decoder, signal.SIGSTOP)
        with connecting(url) as connection:
            connection.sendall(request(body))
            while metric(httpx.get(f"{url}/metrics").text, "seg_codec_tasks") < 1:
                pass
            process.send_signal(signal.SIGTERM)
            assert refused(everything(connection))
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
        assert select.select([watched], [], [], 60)[0], "the decoder goes on"
        os.close(watched)


def decoders_of(process):
    """The decoder processes of this process."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return [one for one in children if b"decoder" in Path(f"/proc/{one}/cmdline").read_bytes()]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_hanging_exit_handler_does_not_keep_the_process_alive(weights_file, workers):
    """As a single process, and as a supervisor."""
    settings = {"weights": weights_file, "drain_timeout_s": 1, "port": 0, "device": "cpu"}
    module = "tests.app.lingering"
    with program(module=module, log_format="json", workers=workers, **settings) as process:
        logged(process, "ready")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def asking(process, body):
    connection = connecting(logged(process, "ready")["address"])
    connection.sendall(request(body))
    return connection


def connecting(url):
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port), timeout=60)


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_that_have_reached_the_system_before_sigterm_are_answered(weights_file, workers):
    """On new connections, which nobody has accepted yet, and on those of earlier requests."""
    settings = {"weights": weights_file, "port": 0, "device": "cpu", "workers": workers}
    with (
        program(log_format="json", **settings) as process,
        ExitStack() as stack,
    ):
        pids = [process.pid]
        if workers > 1:
            pids = [logged(process, "worker started")["worker"] for _ in range(workers)]
        url, *_ = [httpx.URL(logged(process, "ready")["address"]) for _ in range(workers)]

        def connect():
            return stack.enter_context(socket.create_connection((url.host, url.port), timeout=300))

        kept = [connect() for _ in range(3)]
        for connection in kept:
            connection.sendall(PROBE)
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(2000)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        opened = [*kept, *(connect() for _ in range(12))]
        for connection in opened:
            connection.sendall(PROBE)
        process.send_signal(signal.SIGTERM)
        for pid in pids:
            while not has_received(pid, signal.SIGTERM):  # from the supervisor
                pass
            os.kill(pid, signal.SIGCONT)
        for connection in opened:
            assert everything(connection).startswith(b"HTTP/1.1 200 ")
        assert process.wait(60) == 0


def has_received(pid, number):
    """Whether the stopped process handles the signal as soon as it continues.

    A process that had not run since SIGSTOP has already begun to handle it.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    masks = re.findall(r"^(?:ShdPnd|SigBlk):\s*(\w+)$", status, re.M)
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


PROBE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def newly_connected(settings, **changed):
    """A server, and a connection to it that has no request yet."""
    with (
        serving(settings.model_copy(update=PATIENT | changed)) as (_, server),
        connected(server) as connection,
    ):
        wait_for_metric(server, "seg_connections", 1)
        yield server, connection


def test_the_first_request_of_a_connection_may_arrive_during_the_drain(settings, monkeypatch):
    monkeypatch.setattr("app.process.protocol.LAST_REQUEST_S", 300)
    with newly_connected(settings) as (server, connection):
        server.should_exit = True
        while server.servers[0].is_serving():
            pass
        connection.sendall(request(GOOD))
        assert refused(everything(connection))


def test_a_connection_without_a_request_does_not_delay_the_drain_for_long(settings, monkeypatch):
    monkeypatch.setattr("app.process.protocol.LAST_REQUEST_S", 0)
    patient = {"head_timeout_s": 3600, "drain_timeout_s": 3600}
    with newly_connected(settings, **patient) as (server, connection):
        server.should_exit = True
        assert everything(connection) == b""
