"""The end: who cannot be answered in time gets a problem, and the process ends all the same."""

import signal
import socket
import threading
from contextlib import ExitStack

import httpx

from app.codecs import decode
from tests.app import faulty
from tests.app.conftest import connected, held_by, metric, serving
from tests.app.faulty import STUCK, command
from tests.app.process.test_connections import everything, problem
from tests.app.process.test_framing import request
from tests.app.test_faults import PATIENT, faulty_program, held, queue_depth
from tests.app.test_program import logged, program

GOOD = command((10, 200, 30))
PAGE = "https://app.example"


def refused(answer):
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in answer
    assert b"\r\nconnection: close\r\n" in answer
    assert problem(answer) == "not-ready"
    return True


def test_whoever_cannot_be_answered_by_the_limit_gets_a_problem(settings, monkeypatch):
    """In the engine, in the queue, in a decoder, and while it uploads."""
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
        while queue_depth(server) < 1:
            pass
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
        while held_by(server):
            pass
    text = server.service.metrics.export().decode()
    assert metric(text, 'seg_rejections_total{reason="not-ready"}') == 4


def test_what_can_be_answered_by_the_limit_is(settings, monkeypatch):
    monkeypatch.setattr("app.loading.open_predictor", faulty.open_faulty_predictor)
    with serving(settings.model_copy(update=PATIENT)) as (client, server):
        engine = server.service.predictor.engine
        stuck = held(engine, client)
        with connected(server) as connection:
            connection.sendall(request(GOOD))
            while queue_depth(server) < 1:
                pass
            server.should_exit = True
            while server.servers[0].is_serving():
                pass
            engine.release.set()
            assert everything(connection).startswith(b"HTTP/1.1 200 ")
        stuck.join()


def test_a_decode_that_does_not_end_does_not_keep_the_process(weights_file):
    settings = {"weights": weights_file, "drain_timeout_s": 1, "port": 0, "device": "cpu"}
    with program(module="tests.app.hanging", log_format="json", **settings) as process:
        with asking(process, faulty.jpeg()) as connection:
            logged(process, "decoding")
            process.send_signal(signal.SIGTERM)
            assert refused(everything(connection))
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def test_a_batch_that_does_not_end_does_not_keep_the_process(weights_file):
    settings = {"weights": weights_file, "drain_timeout_s": 1, "stuck_after_s": 600}
    with faulty_program(**settings) as process:
        with asking(process, command(STUCK)) as connection:
            logged(process, "in the engine")
            process.send_signal(signal.SIGTERM)
            assert refused(everything(connection))
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


def asking(process, body):
    address = httpx.URL(logged(process, "ready")["address"])
    connection = socket.create_connection((address.host, address.port), timeout=60)
    connection.sendall(request(body))
    return connection
