"""New weights under a running server."""

import asyncio
import hashlib
import io
import os
import re
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from app.access.keys import format_line, make_key
from app.errors import NotReady, Overloaded, ReloadFailed
from app.scheduling.admission import make_overloaded
from model.predictor import open_predictor
from model.weights import read_weights, write_weights
from tests.app.conftest import changes, metric, read_metric, serving
from tests.app.test_program import logged, program
from tests.conftest import PHOTO

RELOADS = 50


@pytest.fixture(scope="module")
def two(weights_file, tmp_path_factory):
    """Two weights files whose masks differ, and where the server looks for one."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copy(weights_file, folder / "first")
    weights = read_weights(weights_file)
    bias = weights.tensors["final_conv.bias"] + np.linspace(-0.5, 0.5, 21, dtype=np.float32)
    write_weights(folder / "second", {**weights.tensors, "final_conv.bias": bias}, weights.metadata)
    return folder


@pytest.fixture(scope="module")
def expected(two):
    """The masks of the photo by the weights' digests."""
    photo = np.asarray(Image.open(PHOTO).convert("RGB"))
    found = {}
    for name in ("first", "second"):
        predictor = open_predictor(two / name, device="cpu")
        found[predictor.metadata.digest] = predictor(photo)
    first, second = found.values()
    assert (first != second).any()
    return found


def put(two, name):
    """Replace the file atomically."""
    shutil.copy(two / name, two / "new")
    (two / "new").rename(two / "current")


def reload(server):
    """Run it in the server's thread."""
    return asyncio.run_coroutine_threadsafe(server.service.reload(), server.event_loop).result(600)


def segment(client):
    answer = client.post("/v1/segment", content=PHOTO.read_bytes())
    assert answer.status_code == 200
    mask = np.asarray(Image.open(io.BytesIO(answer.content)))
    return answer.headers["x-weights-digest"], mask


@contextmanager
def serving_current(settings, two):
    put(two, "first")
    # A busy machine may take longer for a reload than a batch may take.
    changes = {"weights": two / "current", "stuck_after_s": 600, "deadline_s": 600}
    with serving(settings.model_copy(update=changes)) as (client, server):
        yield client, server


def test_new_weights_serve_from_then_on(settings, two, expected):
    first, second = expected
    with serving_current(settings, two) as (client, server):
        digest, mask = segment(client)
        assert digest == first
        assert (mask == expected[first]).all()
        put(two, "second")
        reload(server)
        digest, mask = segment(client)
        assert digest == second == client.get("/v1/model").json()["digest"]
        assert (mask == expected[second]).all()
        text = client.get("/metrics").text
        assert metric(text, 'seg_reloads_total{outcome="swapped"}') == 1
        assert re.findall(r'seg_model_info\{digest="(\w+)"', text) == [second]


def test_waiting_requests_are_computed_with_the_weights_of_their_arrival(settings, two, expected):
    first, second = expected
    with serving_current(settings, two) as (client, server), ThreadPoolExecutor() as threads:
        engine = server.service.predictor.engine
        gate, busy = threading.Event(), threading.Event()
        segment_canvases = engine.segment

        def gated(*arguments):
            busy.set()
            assert gate.wait(600)
            return segment_canvases(*arguments)

        engine.segment = gated
        waits = [threads.submit(segment, client) for _ in range(5)]
        assert busy.wait(600)
        changes.wait_until(lambda: read_metric(server, "seg_queue_depth") >= 2)
        put(two, "second")
        reload(server)
        waits.append(threads.submit(segment, client))
        changes.wait_until(lambda: read_metric(server, "seg_queue_depth") >= 3)
        gate.set()
        for wait, wanted in zip(waits, [first] * 5 + [second], strict=True):
            digest, mask = wait.result()
            assert digest == wanted
            assert (mask == expected[wanted]).all()


def other_engine(two, monkeypatch):
    """The file is valid, but the engine computes something else."""
    put(two, "second")
    wrong = open_predictor(two / "first", device="cpu").engine
    monkeypatch.setattr("model.predictor.start_engine", lambda *_, **__: wrong)


def damaged(two, _):
    data = bytearray((two / "second").read_bytes())
    data[-1] ^= 1
    (two / "current").write_bytes(data)


def missing(two, _):
    (two / "current").unlink()


def unanswerable(two, monkeypatch):
    """The file and the engine work, but one answer format cannot be encoded."""
    put(two, "second")
    monkeypatch.setattr("app.codecs.jsonmask.list_present", lambda *_: 1 / 0)


@pytest.mark.parametrize("harm", [damaged, missing, other_engine, unanswerable])
def test_weights_that_do_not_work_are_rejected(settings, two, expected, monkeypatch, harm):
    first, _ = expected
    with serving_current(settings, two) as (client, server):
        harm(two, monkeypatch)
        if harm is other_engine:
            monkeypatch.setattr("model.golden.MIN_AGREEMENT", 1.01)
        with pytest.raises(ReloadFailed):
            reload(server)
        monkeypatch.undo()
        digest, mask = segment(client)
        assert digest == first
        assert (mask == expected[first]).all()
        assert metric(client.get("/metrics").text, 'seg_reloads_total{outcome="kept"}') == 1
        assert client.get("/health/ready").status_code == 200


def test_signals_during_a_reload_cause_one_more_reload(settings, two, monkeypatch):
    with serving_current(settings, two) as (client, server):
        loading, go, opened = threading.Event(), threading.Event(), []

        def gated(*arguments, **options):
            opened.append(arguments)
            loading.set()
            assert go.wait(600)
            return open_predictor(*arguments, **options)

        monkeypatch.setattr("app.loading.open_predictor", gated)
        server.event_loop.call_soon_threadsafe(server.reload)  # what SIGHUP does
        assert loading.wait(600)
        for _ in range(50):
            server.event_loop.call_soon_threadsafe(server.reload)

        async def one_more():
            await server.service.reload()

        asked = asyncio.run_coroutine_threadsafe(one_more(), server.event_loop)
        put(two, "second")
        go.set()
        asked.result(600)
        assert len(opened) == 2
        text = client.get("/metrics").text
        assert metric(text, 'seg_reloads_total{outcome="swapped"}') == 2
        digest = client.get("/v1/model").json()["digest"]
        assert digest == read_weights(two / "second").metadata.digest


def test_a_reload_that_hangs_fails_at_its_limit_and_blocks_no_other(settings, two, monkeypatch):
    with serving_current(settings, two) as (client, server):
        goes_on = threading.Event()
        with monkeypatch.context() as patched:
            patched.setattr("app.service.RELOAD_LIMIT_S", 0.01)
            patched.setattr("app.loading.open_predictor", lambda *_, **__: goes_on.wait(600))
            with pytest.raises(ReloadFailed, match=r"did not end within 0.01 s"):
                reload(server)
        put(two, "second")
        reload(server)
        goes_on.set()
        digest = client.get("/v1/model").json()["digest"]
        assert digest == read_weights(two / "second").metadata.digest


def test_a_draining_server_does_not_reload(settings, two):
    with serving_current(settings, two) as (_, server):
        server.service.drain()
        with pytest.raises(NotReady):
            reload(server)


def test_a_reload_for_which_there_is_no_place_may_be_tried_again(settings, two, monkeypatch):
    """As when the engines are in other processes, and full: it says nothing of the weights."""
    with serving_current(settings, two) as (client, server):
        before = client.get("/v1/model").json()["digest"]
        put(two, "second")

        def refuse(*_, **__):
            raise make_overloaded("All engines are full.", reason="engine", seconds=3)

        monkeypatch.setattr("app.loading.open_predictor", refuse)
        with pytest.raises(Overloaded) as raised:
            reload(server)
        assert raised.value.retry_after_s == 3
        assert client.get("/v1/model").json()["digest"] == before
        assert metric(client.get("/metrics").text, 'seg_reloads_total{outcome="kept"}') == 1
        monkeypatch.undo()
        reload(server)
        assert client.get("/v1/model").json()["digest"] != before


def test_an_admin_may_reload_and_nobody_else(settings, two, expected, tmp_path):
    _, second = expected
    admin, user = make_key(), make_key()
    keys = tmp_path / "keys.txt"
    keys.write_text(f"{format_line('op', admin, admin=True)}\n{format_line('anna', user)}\n")
    with serving_current(settings.model_copy(update={"keys_file": keys}), two) as (client, _):
        put(two, "second")

        def ask(**headers):
            return client.post("/v1/admin/reload", headers=headers)

        assert ask().status_code == 401
        assert ask(Authorization=f"Bearer {user}").status_code == 403
        reloaded = ask(Authorization=f"Bearer {admin}")
        assert reloaded.status_code == 200
        assert reloaded.json()["digest"] == second
        (two / "current").write_bytes(b"nonsense")
        failed = ask(Authorization=f"Bearer {admin}")
        assert failed.status_code == 409
        assert failed.json()["type"] == "urn:segmentation:problem:reload-failed"
        assert client.get("/v1/model", headers={"X-API-Key": user}).json()["digest"] == second


def test_without_keys_nobody_reloads_over_http(settings, two):
    with serving_current(settings, two) as (client, _):
        assert client.post("/v1/admin/reload").status_code == 403


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_fifty_reloads_under_load_lose_no_request_and_leak_no_memory(two, expected):
    put(two, "first")
    settings = {"weights": two / "current", "port": 0, "device": "cpu", "log_format": "json"}
    settings |= {"stuck_after_s": 600, "deadline_s": 600}
    digests = {digest: hashlib.sha256(mask.tobytes()).digest() for digest, mask in expected.items()}
    over = threading.Event()

    def load(address):
        seen = set()
        with httpx.Client(base_url=address, timeout=600) as client:
            while not over.is_set():
                digest, mask = segment(client)
                assert hashlib.sha256(mask.tobytes()).digest() == digests[digest]
                seen.add(digest)
        return seen

    with program(**settings) as process, ThreadPoolExecutor() as threads:
        address = logged(process, "ready")["address"]
        callers = [threads.submit(load, address) for _ in range(2)]
        try:
            memory = []
            for number in range(RELOADS):
                put(two, ("second", "first")[number % 2])
                process.send_signal(signal.SIGHUP)
                logged(process, "reloaded")
                memory.append(resident_bytes(process.pid))
                if number == RELOADS // 5:
                    files = descriptors(process.pid)
        finally:
            over.set()
        assert all(caller.result() == set(digests) for caller in callers)
        text = httpx.get(f"{address}/metrics").text
        assert metric(text, 'seg_reloads_total{outcome="swapped"}') == RELOADS
        assert 'status="5' not in text
        assert descriptors(process.pid) <= files
        assert max(memory[-10:]) < 1.1 * max(memory[5:15])
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
