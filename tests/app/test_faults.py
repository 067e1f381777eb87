"""Internal faults: a real server with an engine that misbehaves on command."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.codecs import decode
from app.codecs.trial import WARM_UP_SIZES
from tests.app import faulty
from tests.app.conftest import connected, metric, serving, wait_for_metric, wait_for_rest
from tests.app.faulty import DIE, LOSE_DEVICE, NEEDS_TOO_MUCH, RAISE, STUCK, command, jpeg
from tests.app.test_program import logged, program

GOOD = (10, 200, 30)
WARM_UP = len(WARM_UP_SIZES)

PATIENT = {"stuck_after_s": 600, "deadline_s": 600}
"""Long timeouts, for an engine that the test holds, on busy machines."""


@pytest.fixture
def faulty_server(settings, monkeypatch):
    monkeypatch.setattr("app.loading.open_predictor", faulty.open_faulty_predictor)
    with serving(settings.model_copy(update=PATIENT)) as (client, server):
        engine = server.service.predictor.engine
        yield client, server, engine
        engine.release.set()


def held(engine, client):
    """A request that occupies the engine until `release`. Later requests will share a batch."""
    stuck = threading.Thread(target=post, args=(client, STUCK))
    stuck.start()
    assert engine.is_stuck.wait(30)
    return stuck


def post(client, colour):
    return client.post("/v1/segment", content=command(colour))


def waiting_for(client, server, *colours):
    """Answers to requests that all wait in the queue before this returns."""
    threads = ThreadPoolExecutor(len(colours))
    answers = []
    for number, colour in enumerate(colours, start=1):
        answers.append(threads.submit(post, client, colour))
        wait_for_metric(server, "seg_queue_depth", number)
    return answers


def test_an_engine_that_raises_fails_the_culprit_only(faulty_server):
    client, server, engine = faulty_server
    stuck = held(engine, client)
    colours = (GOOD, GOOD, RAISE, GOOD, GOOD)
    answers = waiting_for(client, server, *colours)
    engine.release.set()
    statuses = [answer.result().status_code for answer in answers]
    stuck.join()
    assert statuses == [200, 200, 500, 200, 200]
    assert engine.calls[WARM_UP:] == [1, 5, 2, 3, 1, 2]
    assert "secret" not in answers[2].result().text
    text = client.get("/metrics").text
    assert metric(text, "seg_engine_failures_total") == 3
    assert client.get("/health/live").status_code == 200


def test_a_batch_that_needs_too_much_memory_is_halved(faulty_server):
    client, server, engine = faulty_server
    stuck = held(engine, client)
    answers = waiting_for(client, server, NEEDS_TOO_MUCH, GOOD, GOOD, GOOD)
    engine.release.set()
    assert [answer.result().status_code for answer in answers] == [200] * 4
    stuck.join()
    assert engine.calls[WARM_UP:] == [1, 4, 2, 1, 1, 2]


def test_of_a_thousand_callers_only_those_who_stay_are_computed(settings, monkeypatch):
    monkeypatch.setattr("app.loading.open_predictor", faulty.open_faulty_predictor)
    many = settings.model_copy(update=PATIENT | {"max_queue": 2000, "max_connections": 0})
    with serving(many) as (client, server):
        engine = server.service.predictor.engine
        body = jpeg()
        request = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        stuck = held(engine, client)
        opened = [connected(server) for _ in range(1000)]
        for connection in opened:
            connection.sendall(request + body)
        wait_for_metric(server, "seg_queue_depth", 1000)
        stayed, left = opened[::10], [c for i, c in enumerate(opened) if i % 10]
        for connection in left:
            connection.close()
        wait_for_metric(server, "seg_queue_depth", 100)
        engine.release.set()
        for connection in stayed:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            connection.close()
        stuck.join()
        assert engine.computed == WARM_UP + 1 + 100
        assert metric(client.get("/metrics").text, 'seg_dropped_total{stage="queue"}') == 900


def test_a_request_that_disconnects_while_it_is_decoded_is_not_computed(faulty_server, monkeypatch):
    client, server, engine = faulty_server
    decode_image, begun, goes_on = decode.decode_image, threading.Event(), threading.Event()

    def gated(*arguments, **options):
        begun.set()
        assert goes_on.wait(30)
        return decode_image(*arguments, **options)

    monkeypatch.setattr(decode, "decode_image", gated)
    body = jpeg()
    with connected(server) as connection:
        connection.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert begun.wait(30)
    wait_for_metric(server, "seg_dropped_total", 1, stage="decode")
    goes_on.set()
    monkeypatch.setattr(decode, "decode_image", decode_image)
    assert post(client, GOOD).status_code == 200
    assert engine.computed == WARM_UP + 1


def test_a_request_that_disconnects_while_it_is_computed_is_not_encoded(faulty_server, monkeypatch):
    _, server, engine = faulty_server
    encoded = []
    monkeypatch.setattr("app.codecs.encode.encode_mask", lambda *_: encoded.append(1))
    body = command(STUCK)
    with connected(server) as connection:
        connection.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert engine.is_stuck.wait(30)
    wait_for_metric(server, "seg_dropped_total", 1, stage="inference")
    engine.release.set()
    wait_for_rest(server)
    assert engine.computed == WARM_UP + 1
    assert not encoded


def faulty_program(**variables):
    variables = {"workers": 1, "log_format": "json", "port": 0, "device": "cpu"} | variables
    return program(module="tests.app.faulty", **variables)


def test_a_stuck_engine_is_noticed_and_the_process_ends(weights_file):
    with (
        faulty_program(weights=weights_file, stuck_after_s=0.5) as process,
        ThreadPoolExecutor() as threads,
    ):
        address = logged(process, "ready")["address"]
        with httpx.Client(base_url=address, timeout=60) as client:
            stuck = threads.submit(post, client, STUCK)
            logged(process, "stuck")
            assert stuck.result().status_code == 500
            assert client.get("/health/live").status_code == 503
            assert client.get("/health/ready").status_code == 503
            waits = threads.submit(post, client, GOOD)
            logged(process, "dead")
            assert waits.result().status_code in (500, 503)
        assert process.wait(30) == 70


def test_sigterm_ends_a_process_with_a_stuck_engine(weights_file):
    settings = {"weights": weights_file, "stuck_after_s": 0.5, "drain_timeout_s": 30}
    with faulty_program(**settings) as process, ThreadPoolExecutor() as threads:
        address = logged(process, "ready")["address"]
        with httpx.Client(base_url=address, timeout=60) as client:
            stuck = threads.submit(post, client, STUCK)
            logged(process, "stuck")
            assert stuck.result().status_code == 500
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 70


@pytest.mark.parametrize("fault", [STUCK, DIE, LOSE_DEVICE])
def test_a_stuck_or_dead_worker_or_one_without_its_gpu_is_restarted(weights_file, fault):
    # Long enough for a batch of the other one on a busy machine.
    settings = {"weights": weights_file, "stuck_after_s": 5, "workers": 2, "threads": 1}
    with faulty_program(**settings) as process, ThreadPoolExecutor() as threads:
        first = [logged(process, "worker started")["worker"] for _ in range(2)]
        address = logged(process, "ready")["address"]
        logged(process, "ready")
        answer = threads.submit(
            httpx.post, f"{address}/v1/segment", content=command(fault), timeout=60
        )
        ended = logged(process, "worker ended")
        assert ended["worker"] in first
        assert ended["status"] == {STUCK: 70, DIE: -signal.SIGABRT, LOSE_DEVICE: 71}[fault]
        if fault is not DIE:
            assert answer.result().status_code == 500
        # The other one serves on, and counts for both.
        with httpx.Client(base_url=address, timeout=60) as client:
            assert post(client, GOOD).status_code == 200
            text = client.get("/metrics").text
        assert metric(text, "seg_engine_restarts_total") == 1
        assert metric(text, "seg_ready") == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
