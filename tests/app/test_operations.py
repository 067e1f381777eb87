import asyncio
import re
import threading
from itertools import pairwise

import httpx
import pytest

from app.observability.metrics import SECONDS
from app.settings import Settings
from tests.app.conftest import connected, serving, wait_for_metric
from tests.conftest import PHOTO


def samples(client):
    """Metric lines as {name with labels: value}."""
    lines = client.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_probes_answer(client):
    assert client.get("/health/live").json() == {"status": "alive"}
    assert client.get("/health/ready").json() == {"status": "ready"}
    assert client.get("/health/ready").status_code == 200


READABLE = (
    *("/health/live", "/health/ready", "/metrics", "/v1/model", "/", "/docs", "/openapi.json"),
    *("/v2", "/v2/health/live", "/v2/health/ready"),
    *("/v2/models/fcn_resnet18", "/v2/models/fcn_resnet18/ready"),
)


@pytest.mark.parametrize("path", READABLE)
def test_head_is_answered_like_get_without_a_body(client, path):
    got, headed = client.get(path), client.head(path)
    assert headed.status_code == got.status_code < 400
    assert headed.content == b""
    assert headed.headers.get("content-type") == got.headers.get("content-type")
    if path != "/metrics":  # whose body grows with what is asked
        assert headed.headers["content-length"] == got.headers["content-length"]


def test_every_path_with_get_has_head(server, client):
    described = client.get("/openapi.json").json()["paths"]
    assert {path for path, methods in described.items() if "get" in methods} <= set(READABLE)
    refused = client.delete("/health/ready")
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD"
    assert client.head("/v1/segment").status_code == 405
    assert client.head("/v1/segment").headers["allow"] == "POST"
    assert client.head("/nothing").status_code == 404


def test_a_head_is_counted_by_its_route(client):
    name = 'seg_requests_total{route="/health/ready",status="200"}'
    before = samples(client).get(name, 0)
    client.head("/health/ready")
    assert samples(client)[name] == before + 1


def test_the_histograms_have_buckets_from_ten_seconds_to_the_deadline():
    steps = [seconds for seconds in SECONDS if 10 <= seconds <= Settings().deadline_s]
    assert steps[-1] == Settings().deadline_s
    assert all(later <= 1.5 * earlier for earlier, later in pairwise(steps))


def test_metrics_count_requests_and_images(client, server):
    before = samples(client)
    client.post("/v1/segment", content=PHOTO.read_bytes())
    client.post("/v1/segment", content=b"hello")
    after = samples(client)

    def grown(name):
        return after[name] - before.get(name, 0)

    assert grown('seg_requests_total{route="/v1/segment",status="200"}') == 1
    assert grown('seg_requests_total{route="/v1/segment",status="415"}') == 1
    assert grown('seg_rejections_total{reason="unsupported-type"}') == 1
    assert grown("seg_batch_size_count") == 1
    for stage in ("accept", "read", "decode"):
        assert grown(f'seg_stage_seconds_count{{stage="{stage}"}}') == 2
    for stage in ("queue", "inference", "encode", "send"):
        assert grown(f'seg_stage_seconds_count{{stage="{stage}"}}') == 1
    assert grown('seg_request_seconds_count{route="/v1/segment"}') == 2
    assert after["seg_queue_depth"] == 0
    assert after["seg_in_flight"] == 0
    assert after["seg_ready"] == 1
    assert any(name.startswith("seg_model_info{") for name in after)


def test_the_stages_add_up_to_the_request(client):
    before = samples(client)
    client.post("/v1/segment", content=PHOTO.read_bytes())
    client.post("/v1/segment?format=json", content=PHOTO.read_bytes())
    client.post("/v1/segment", content=b"hello")
    client.post("/v1/segment?format=gif", content=b"hello")
    after = samples(client)

    def grown(names):
        return sum(after[name] - before.get(name, 0) for name in after if names in name)

    stages = grown("seg_stage_seconds_sum{")
    request = grown('seg_request_seconds_sum{route="/v1/segment"}')
    assert stages > 0
    assert abs(stages - request) < 0.05 * request


def test_the_example_of_the_metrics_has_metrics_that_exist(client):
    described = client.get("/openapi.json").json()["paths"]["/metrics"]["get"]
    example = described["responses"]["200"]["content"]["text/plain"]["example"]
    lines = client.get("/metrics").text.splitlines()
    assert set(example.splitlines()) <= set(lines)


def test_a_request_id_is_kept_or_made(client):
    assert client.get("/health/live", headers={"X-Request-ID": "abc-1"}).headers[
        "x-request-id"
    ] == ("abc-1")
    made = client.get("/health/live", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    assert client.get("/nothing").headers["x-request-id"] != made


def test_the_documentation_describes_both_ways_to_upload(client):
    assert client.get("/docs").status_code == 200
    operation = client.get("/openapi.json").json()["paths"]["/v1/segment"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data",
        "application/octet-stream",
        "application/json",
    }
    assert set(operation["responses"]["200"]["content"]) == {
        "image/png",
        "image/jpeg",
        "application/json",
        "application/x-npy",
        "application/octet-stream",
    }
    document = client.get("/openapi.json").text
    for reference in re.findall(r'"\$ref":"#/([^"]+)"', document):
        found = client.get("/openapi.json").json()
        for part in reference.split("/"):
            found = found[part]
    assert "The image cannot be decoded; " in operation["responses"]["422"]["description"]
    assert {"400", "406", "413", "415", "422", "500", "503"} <= set(operation["responses"])


def test_a_full_queue_is_503_with_retry_after(settings):
    with serving(settings.model_copy(update={"max_queue": 1})) as (client, server):
        predict = server.service.predictor.predict
        gate, busy = threading.Event(), threading.Event()

        def gated(canvases):
            busy.set()
            assert gate.wait(30)
            return predict(canvases)

        server.service.predictor.predict = gated
        answers = []
        first = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{server.address}/v1/segment", content=PHOTO.read_bytes(), timeout=60)
            )
        )
        first.start()
        try:
            assert busy.wait(30)
            refused = client.post("/v1/segment", content=PHOTO.read_bytes())
        finally:
            gate.set()
            first.join(60)
        assert refused.status_code == 503
        assert refused.json()["type"] == "urn:segmentation:problem:overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert answers[0].status_code == 200
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200


def test_a_request_is_refused_before_its_body_is_sent(settings):
    with serving(settings) as (client, server):
        server.service.admission.admitted = settings.max_queue
        with connected(server) as connection:
            connection.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
            )
            assert connection.recv(65536).startswith(b"HTTP/1.1 503")
        server.service.admission.admitted = 0
        after = samples(client)
        assert after['seg_requests_total{route="/v1/segment",status="503"}'] == 1
        assert after['seg_rejections_total{reason="queue-full"}'] == 1
        assert after['seg_stage_seconds_count{stage="accept"}'] == 1


def test_the_callers_own_deadline_is_respected(settings):
    with serving(settings) as (client, server):
        body = PHOTO.read_bytes()
        admission = server.service.admission
        admission.update_pace(5.0)
        admission.admitted += 1  # somebody is before us
        short = client.post("/v1/segment", content=body, headers={"X-Request-Timeout": "2.5"})
        admission.admitted -= 1
        assert short.status_code == 503
        assert short.json()["type"] == "urn:segmentation:problem:overloaded"
        assert short.headers["retry-after"] == "8"
        assert client.post("/v1/segment", content=body).status_code == 200
        for wrong in ("0", "-1", "soon", "nan"):
            headers = {"X-Request-Timeout": wrong}
            assert client.post("/v1/segment", content=body, headers=headers).status_code == 422


def test_a_request_that_disconnects_in_the_queue_is_not_computed(settings):
    one_at_a_time = settings.model_copy(update={"engine": "ncnn"})
    with serving(one_at_a_time) as (client, server):
        batcher = server.service.batcher
        predict, batches = server.service.predictor.predict, []
        gate, busy, left = threading.Event(), threading.Event(), threading.Event()

        def gated(canvases):
            batches.append(len(canvases))
            busy.set()
            assert gate.wait(30)
            return predict(canvases)

        server.service.predictor.predict = gated
        submit, queued = batcher.submit, threading.Semaphore(0)

        async def watched_submit(*arguments, **options):
            queued.release()
            try:
                return await submit(*arguments, **options)
            except asyncio.CancelledError:
                left.set()
                raise

        batcher.submit = watched_submit
        first = threading.Thread(
            target=lambda: client.post("/v1/segment", content=PHOTO.read_bytes())
        )
        first.start()
        assert busy.wait(30)
        assert queued.acquire(timeout=30)
        body = PHOTO.read_bytes()
        with connected(server) as connection:
            head = f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            assert queued.acquire(timeout=30)
        assert left.wait(30)
        gate.set()
        first.join(60)
        assert client.post("/v1/segment", content=body).status_code == 200
        assert batches == [1, 1], "the first and the last; not the one in between"
        assert samples(client)['seg_requests_total{route="/v1/segment",status="499"}'] == 1
        assert samples(client)['seg_dropped_total{stage="queue"}'] == 1
        assert samples(client)["seg_queue_depth"] == 0


def test_a_disconnect_during_the_upload_is_not_a_server_error(settings):
    with serving(settings) as (client, server):
        with connected(server) as connection:
            connection.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
                b"Expect: 100-continue\r\n\r\n"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
        wait_for_metric(server, "seg_requests_total", 1, route="/v1/segment", status="499")
        assert samples(client)['seg_dropped_total{stage="read"}'] == 1


def test_a_failing_engine_gives_500_and_the_server_continues(settings):
    with serving(settings) as (client, server):
        predict = server.service.predictor.predict

        def fail(_):
            raise RuntimeError("secret detail")

        server.service.predictor.predict = fail
        response = client.post("/v1/segment", content=PHOTO.read_bytes())
        assert response.status_code == 500
        assert response.json()["type"] == "urn:segmentation:problem:inference-failed"
        assert "secret" not in response.text
        server.service.predictor.predict = predict
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200
        assert client.get("/health/live").status_code == 200


def test_an_unexpected_error_gives_500_with_a_request_id_and_no_details(settings, monkeypatch):
    with serving(settings) as (client, _):

        def fail(*_):
            raise RuntimeError("secret detail")

        monkeypatch.setattr("app.codecs.encode.encode_mask", fail)
        response = client.post("/v1/segment", content=PHOTO.read_bytes())
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"]
        assert "secret" not in response.text


def test_a_draining_server_is_not_ready_and_refuses_requests(settings):
    with serving(settings) as (client, server):
        server.service.drain()
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/ready").json() == {"status": "draining"}
        assert client.get("/health/live").status_code == 200
        response = client.post("/v1/segment", content=PHOTO.read_bytes())
        assert response.status_code == 503
        assert response.json()["type"] == "urn:segmentation:problem:not-ready"


def test_a_server_that_is_loading_is_alive_and_not_ready(settings, monkeypatch):
    gate = threading.Event()
    from app import loading

    open_predictor = loading.open_predictor

    def gated(*arguments, **options):
        assert gate.wait(30)
        return open_predictor(*arguments, **options)

    monkeypatch.setattr(loading, "open_predictor", gated)
    with serving(settings, wait=False) as (client, server):
        try:
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 503
            assert client.get("/health/ready").json() == {"status": "loading"}
            assert client.get("/v1/model").status_code == 503
            assert client.post("/v1/segment", content=b"x").status_code == 503
        finally:
            gate.set()
        server.service.started.result(60)
        assert client.get("/health/ready").status_code == 200
