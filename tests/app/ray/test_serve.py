"""The service on a real Ray cluster of two nodes: the same answers, whatever happens to replicas.

The tests share one deployment, and go from the smallest number of replicas to the largest and back.
"""

import io
import re
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.ray_cluster import PATIENCE_S
from model.predictor import open_predictor
from model.scaling import scale_to
from model.weights import read_weights, write_weights
from tests.app.conftest import metric
from tests.conftest import PHOTO

pytest.importorskip("ray", reason="needs the extra ray")

SEGMENT = {"url": "/v1/segment", "content": PHOTO.read_bytes()}


@pytest.fixture(scope="module")
def expected(weights_file, photo):
    """The mask that one process computes."""
    return open_predictor(weights_file, device="cpu", scaling=scale_to(1024))(photo)


def read_mask(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def count_replicas(name):
    """The number of replicas that take requests."""
    from ray import serve

    deployment = serve.status().applications["default"].deployments[name]
    return deployment.replica_states.get("RUNNING", 0)


def kill_an_engine():
    """As the system kills a process that takes too much memory."""
    import ray
    from ray.util import list_named_actors

    engines = [
        actor["name"]
        for actor in list_named_actors(all_namespaces=True)
        if actor["name"].startswith("SERVE_REPLICA::default#Engine#")
    ]
    ray.kill(ray.get_actor(engines[0], namespace="serve"), no_restart=True)
    return len(engines)


def wait_until(is_so):
    """Ask ten times a second: a cluster has no event to wait for."""
    pause, until = threading.Event(), time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until
        pause.wait(0.1)


@contextmanager
def load(client, *, callers):
    """The answers of callers who ask without a pause; the block ends before they do."""
    answers, is_over = [], threading.Event()

    def ask():
        while not is_over.is_set():
            answers.append(client.post(**SEGMENT))

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def test_the_mask_is_that_of_a_single_process(ray_client, ray_settings, expected):
    answer = ray_client.post(**SEGMENT)
    assert (read_mask(answer) == expected).all()
    assert answer.headers["x-weights-digest"] == read_weights(ray_settings.weights).metadata.digest
    for header in ("date", "x-request-id"):  # Serve's proxy has them, too
        assert len(answer.headers.get_list(header)) == 1
    model = ray_client.get("/v1/model").json()
    assert re.search(r"on cpu", model["engine"])
    confidence = ray_client.post(**SEGMENT, params={"format": "confidence"})
    assert confidence.status_code == 200


def test_errors_are_the_services_own(ray_client):
    broken = ray_client.post("/v1/segment", content=b"GIF89a")
    assert broken.status_code in (415, 422)
    assert broken.headers["content-type"] == "application/problem+json"
    assert ray_client.get("/v1/model", headers={"Authorization": ""}).status_code == 401


def test_a_crowd_gets_masks_or_a_problem_that_says_when_to_try_again(ray_client, expected):
    """The service has eight places, and Serve never refuses before it does."""
    barrier, answers = threading.Barrier(24), []

    def ask():
        barrier.wait(PATIENCE_S)
        answers.append(ray_client.post(**SEGMENT))

    threads = [threading.Thread(target=ask) for _ in range(barrier.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < len(answers) == barrier.parties
    for answer in refused:
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:segmentation:problem:overloaded"
        assert int(answer.headers["retry-after"]) >= 1


def test_replicas_are_added_under_load_replaced_when_killed_and_removed_after(ray_client, expected):
    with load(ray_client, callers=4) as answers:
        wait_until(lambda: count_replicas("Engine") == 2)
        killed_at = len(answers)
        assert kill_an_engine() == 2
        wait_until(lambda: len(answers) > killed_at + 8)
        wait_until(lambda: count_replicas("Engine") == 2)
    assert all((read_mask(answer) == expected).all() for answer in answers)
    wait_until(lambda: count_replicas("Engine") == 1)
    assert (read_mask(ray_client.post(**SEGMENT)) == expected).all()


def test_an_upgrade_loses_no_request(ray_client, ray_settings, options, expected):
    from ray import serve

    from app.ray.application import compose

    with load(ray_client, callers=2) as answers:
        serve.run(compose(ray_settings.model_copy(update={"max_files": 7}), options))
        upgraded_at = len(answers)
        wait_until(lambda: len(answers) > upgraded_at + 4)
    assert all((read_mask(answer) == expected).all() for answer in answers)
    assert ray_client.get("/v1/model").json()["limits"]["max_files"] == 7


def test_new_weights_reach_the_engines_and_the_answer_names_them(
    ray_client, ray_settings, expected, photo
):
    weights = read_weights(ray_settings.weights)
    bias = weights.tensors["final_conv.bias"] + np.linspace(-0.5, 0.5, 21, dtype=np.float32)
    new = ray_settings.weights.with_name("new")
    write_weights(new, {**weights.tensors, "final_conv.bias": bias}, weights.metadata)
    new.rename(ray_settings.weights)
    reloaded = ray_client.post("/v1/admin/reload").json()
    predictor = open_predictor(ray_settings.weights, device="cpu", scaling=scale_to(1024))
    answer = ray_client.post(**SEGMENT)
    assert answer.headers["x-weights-digest"] == reloaded["digest"] == predictor.metadata.digest
    mask = read_mask(answer)
    assert (mask == predictor(photo)).all()
    assert (mask != expected).any()


def test_the_metrics_are_the_services_and_ray_exports_those_of_all_replicas(ray_client, cluster):
    text = ray_client.get("/metrics").text
    assert metric(text, 'seg_reloads_total{outcome="swapped"}') == 1

    def are_exported():
        exported = "".join(httpx.get(url, timeout=PATIENCE_S).text for url in cluster.metrics)
        requests = r'^ray_seg_requests_total\{.*deployment="Ingress".*route="/v1/segment"'
        batches = r'^ray_seg_batch_size_bucket\{.*deployment="Engine"'
        return re.search(requests, exported, re.M) and re.search(batches, exported, re.M)

    wait_until(are_exported)
