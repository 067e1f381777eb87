"""The program with engine processes that its workers share (SEG_ENGINES)."""

import io
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from model.predictor import open_predictor
from model.scaling import scale_to
from tests.app.conftest import metric
from tests.app.faulty import LOSE_DEVICE, STUCK, command
from tests.app.test_program import descendants, logged, program
from tests.app.test_reload import expected, put, two  # noqa: F401, fixtures
from tests.conftest import PHOTO

CALLERS = 8
PATIENT = {"stuck_after_s": 600, "deadline_s": 600, "drain_timeout_s": 600}
"""Long enough for busy machines."""


def sharing(weights_file, *, module="app", **variables):
    settings = {"threads": 1, "port": 0, "operations_port": 0, "log_format": "json"}
    settings |= PATIENT | {"weights": weights_file, "device": "cpu"} | variables
    return program(module=module, **settings)


def segment(address, output="png"):
    answer = httpx.post(
        f"{address}/v1/segment", params={"format": output}, content=PHOTO.read_bytes(), timeout=600
    )
    assert answer.status_code == 200, answer.text
    return answer


def decode(answer):
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def in_flight(operations, count):
    """Wait until the workers have admitted so many requests, which stay because engines stand."""
    while True:
        text = httpx.get(f"{operations}/metrics", timeout=600).text
        if metric(text, "seg_in_flight") == count:
            return


def test_masks_are_those_of_one_process_and_killed_processes_are_replaced(weights_file, photo):
    predictor = open_predictor(weights_file, device="cpu", scaling=scale_to(480))
    mask = predictor(photo)
    (confidence,) = predictor.measure_confidence([predictor.prepare(photo)])
    with (
        sharing(weights_file, workers=2, engines=2) as process,
        ThreadPoolExecutor(CALLERS) as threads,
    ):
        workers = [logged(process, "worker started")["worker"] for _ in range(2)]
        engines = [logged(process, "engine started")["engine"] for _ in range(2)]
        logged(process, "ready")
        ready = logged(process, "ready")
        address, operations = ready["address"], ready["operations"]
        assert (decode(segment(address)) == mask).all()
        assert (decode(segment(address, "confidence")) == confidence).all()

        for engine in engines:
            os.kill(engine, signal.SIGSTOP)
        answers = [threads.submit(segment, address) for _ in range(CALLERS)]
        in_flight(operations, CALLERS)
        os.kill(engines[0], signal.SIGKILL)
        os.kill(engines[1], signal.SIGCONT)
        for answer in answers:
            assert (decode(answer.result()) == mask).all()
        assert logged(process, "engine ended")["status"] == -signal.SIGKILL
        engines[0] = logged(process, "engine started")["engine"]
        text = httpx.get(f"{operations}/metrics", timeout=600).text
        assert metric(text, "seg_engine_restarts_total") == 1
        assert metric(text, "seg_queue_depth") == metric(text, "seg_in_flight") == 0
        assert metric(text, 'process_resident_memory_bytes{process="engine-1"}') > 0

        os.kill(workers[0], signal.SIGKILL)
        logged(process, "worker ended")
        assert (decode(segment(address)) == mask).all()
        logged(process, "ready")
        children = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 0
        assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]
        assert "Traceback" not in process.stderr.read()


def test_the_only_engine_is_replaced_reloads_and_drains_under_load(two):  # noqa: F811
    put(two, "first")
    with (
        sharing(two / "current", engines=1) as process,
        ThreadPoolExecutor(CALLERS) as threads,
    ):
        engine = logged(process, "engine started")["engine"]
        ready = logged(process, "ready")
        address, operations, first = ready["address"], ready["operations"], ready["weights"]

        def ask():
            """Requests that the engine holds, whose process is suspended."""
            os.kill(engine, signal.SIGSTOP)
            answers = [threads.submit(segment, address) for _ in range(CALLERS)]
            in_flight(operations, CALLERS)
            return answers

        answers = ask()
        os.kill(engine, signal.SIGKILL)
        logged(process, "engine ended")
        assert httpx.get(f"{operations}/health/live", timeout=600).status_code == 200
        engine = logged(process, "engine started")["engine"]
        for answer in answers:
            assert answer.result().headers["x-weights-digest"] == first

        put(two, "second")
        process.send_signal(signal.SIGHUP)
        second = logged(process, "reloaded")["weights"]
        assert second != first
        assert segment(address).headers["x-weights-digest"] == second

        answers = ask()
        process.send_signal(signal.SIGTERM)
        logged(process, "Shutting down")
        os.kill(engine, signal.SIGCONT)
        for answer in answers:
            assert answer.result().headers["x-weights-digest"] == second
        assert process.wait(600) == 0
        assert "Traceback" not in process.stderr.read()


def test_two_engines_that_reload_at_once_under_load_compute_with_the_named_weights(two, expected):  # noqa: F811
    """Each reload is one of both workers, and so of both engines, which keep two weights."""
    put(two, "first")
    is_over = threading.Event()

    def ask(address):
        answers = []
        while not is_over.is_set():
            answers.append(segment(address))
        return answers

    with (
        sharing(two / "current", workers=2, engines=2) as process,
        ThreadPoolExecutor(CALLERS) as threads,
    ):
        for _ in range(2):
            ready = logged(process, "ready")
        address, operations, digest = ready["address"], ready["operations"], ready["weights"]
        asked = [threads.submit(ask, address) for _ in range(CALLERS)]
        try:
            for name in ("second", "first", "second"):
                put(two, name)
                process.send_signal(signal.SIGHUP)
                reloaded = {logged(process, "reloaded")["weights"] for _ in range(2)}
                assert reloaded == expected.keys() - {digest}
                (digest,) = reloaded
        finally:
            is_over.set()
        answers = [answer for caller in asked for answer in caller.result()]
        last = [segment(address) for _ in range(2)]
        assert {answer.headers["x-weights-digest"] for answer in last} == {digest}
        for answer in [*answers, *last]:
            assert (decode(answer) == expected[answer.headers["x-weights-digest"]]).all()
        text = httpx.get(f"{operations}/metrics", timeout=600).text
        assert metric(text, 'seg_reloads_total{outcome="swapped"}') == 6
        assert metric(text, "seg_queue_depth") == metric(text, "seg_in_flight") == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("fault", [STUCK, LOSE_DEVICE])
def test_an_engine_that_is_stuck_or_has_lost_its_gpu_is_replaced(weights_file, fault):
    # Long enough for a batch on a busy machine.
    settings = {"engines": 1, "stuck_after_s": 5}
    with (
        sharing(weights_file, module="tests.app.faulty", **settings) as process,
        ThreadPoolExecutor() as threads,
    ):
        address = logged(process, "ready")["address"]
        answer = threads.submit(
            httpx.post, f"{address}/v1/segment", content=command(fault), timeout=600
        )
        status, times = {STUCK: (70, 1), LOSE_DEVICE: (71, 3)}[fault]
        for _ in range(times):
            assert logged(process, "engine ended")["status"] == status
        assert answer.result().status_code == 500
        assert segment(address).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 0


def test_a_device_that_is_not_there_prevents_the_start(weights_file):
    with sharing(weights_file, engines=2, engine="native", device="cuda") as process:
        _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "error: cannot start: engine 'native' runs on the CPU only, not on device 'cuda'" in err
