"""What an ingress replica does with each answer of Serve's handle; there is no cluster."""

import re
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from app.errors import Overloaded
from app.settings import Settings
from model.engines.base import Region
from model.errors import EngineError
from model.weights import read_weights

pytest.importorskip("ray", reason="needs the extra ray")

from ray.exceptions import (
    ObjectLostError,
    OwnerDiedError,
    RayActorError,
    RayTaskError,
    TaskCancelledError,
)
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from app.ray.remote import ATTEMPTS, RayEngine, RemoteStart
from tests.app.ray.handles import ComputingHandle, ScriptedHandle

SIZE = (32, 32)
MASK = np.ones(SIZE, np.uint8)


def fail_remotely(cause):
    """The error of a call that has raised `cause` in a replica."""
    told = f"Traceback (most recent call last):\n  File /secret/path.py\n{cause!r}"
    return RayTaskError("segment", told, cause, ip="10.1.2.3").as_instanceof_cause()


@pytest.fixture(scope="module")
def weights(weights_file):
    return read_weights(weights_file)


def segment(handle, weights, images=1):
    """Segment images one after the other, and return the last one's mask."""
    shared = []

    def share(weights):
        shared.append(weights)
        return f"reference {len(shared)}"

    engine = RayEngine(handle, weights, callers=8, timeout_s=60, share=share)
    assert (engine.description, engine.device) == ("an engine", "cpu")
    for _ in range(images):
        (mask,) = engine.segment([np.zeros((*SIZE, 3), np.uint8)], [Region(SIZE, SIZE)])
    return mask


def test_the_weights_go_along_only_to_a_replica_that_lacks_them(weights):
    handle = ScriptedHandle(None, MASK)
    assert segment(handle, weights) is MASK
    sent = [(digest, confidence, sent) for digest, _, confidence, sent in handle.calls]
    digest = weights.metadata.digest
    assert sent == [(digest, False, None), (digest, False, "reference 1")]


def test_all_images_share_one_copy_of_the_weights(weights):
    handle = ScriptedHandle(None, MASK, None, MASK)
    segment(handle, weights, images=2)
    assert [sent for *_, sent in handle.calls] == [None, "reference 1"] * 2


@pytest.mark.parametrize(
    "error",
    [
        RayActorError(),
        ObjectLostError("00", None, ""),
        OwnerDiedError("00", None, ""),
        fail_remotely(ObjectLostError("00", None, "")),
    ],
    ids=["actor", "answer", "owner", "weights"],
)
def test_another_replica_computes_what_one_that_ended_has_lost(weights, error):
    handle = ScriptedHandle(error, MASK)
    assert segment(handle, weights) is MASK
    assert len(handle.calls) == 2


def test_an_image_that_ends_every_replica_is_given_to_a_few_only(weights):
    handle = ScriptedHandle(*[RayActorError()] * (ATTEMPTS + 1))
    with pytest.raises(EngineError, match=f"{ATTEMPTS} engine replicas ended"):
        segment(handle, weights)
    assert len(handle.calls) == ATTEMPTS


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BackPressureError(8, 8), "are full"),
        (TimeoutError(), "was free"),
        (DeploymentUnavailableError(DeploymentID("Engine")), "There is no engine replica"),
    ],
    ids=["full", "late", "none"],
)
def test_a_full_cluster_is_an_overload_that_says_when_to_try_again(weights, error, text):
    handle = ScriptedHandle(error)
    with pytest.raises(Overloaded, match=re.escape(text)) as raised:
        segment(handle, weights)
    assert raised.value.retry_after_s >= 1
    assert handle.cancelled == (type(error) is TimeoutError)


class CancellableResponse:
    """An image that a replica never answers, until it is cancelled."""

    def __init__(self):
        self.is_awaited, self.is_cancelled = threading.Event(), threading.Event()

    def remote(self, *_):
        return self

    def result(self, *, timeout_s):
        self.is_awaited.set()
        assert self.is_cancelled.wait(60)
        raise self.error

    def cancel(self):
        self.is_cancelled.set()


@pytest.mark.parametrize("error", [TaskCancelledError(), CancelledError()])
def test_the_image_of_a_caller_who_has_left_is_cancelled(weights, error):
    handle, response = ScriptedHandle(), CancellableResponse()
    response.error = error
    engine = RayEngine(handle, weights, callers=8, timeout_s=60)
    handle.other = response
    canvas, other = (np.zeros((*SIZE, 3), np.uint8) for _ in range(2))
    with ThreadPoolExecutor(1) as threads:
        computing = threads.submit(engine.segment, [canvas], [Region(SIZE, SIZE)])
        assert response.is_awaited.wait(60)
        engine.abandon(other)
        assert not response.is_cancelled.is_set()
        engine.abandon(canvas)
        with pytest.raises(Overloaded, match="dropped"):
            computing.result(60)
    response.is_cancelled.clear()
    engine.abandon(canvas)
    assert not response.is_cancelled.is_set(), "it has ended"


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (EngineError("The engine failed on this image."), "The engine failed on this image."),
        (RuntimeError("in /secret/path.py"), "an engine replica failed"),
        (TimeoutError("in /secret/path.py"), "an engine replica failed"),
    ],
    ids=["told", "unexpected", "timeout"],
)
def test_a_failure_in_a_replica_shows_callers_no_paths_and_no_addresses(weights, cause, text):
    with pytest.raises(EngineError) as raised:
        segment(ScriptedHandle(fail_remotely(cause)), weights)
    assert str(raised.value) == text
    assert not isinstance(raised.value, RayTaskError)


def test_the_start_waits_for_an_engine_and_a_reload_until_the_deadline(weights_file):
    told = [RayActorError(), ("an engine", "cpu"), BackPressureError(8, 8)]
    handle = ComputingHandle(weights_file, descriptions=told)
    start = RemoteStart(handle)
    settings = Settings(weights=weights_file, deadline_s=7)
    start(settings)
    with pytest.raises(Overloaded):
        start(settings)
    start(settings)
    assert handle.limits_s[:2] == [None, None]  # the first replica has ended
    assert [0 < limit_s <= 7 for limit_s in handle.limits_s[2:]] == [True, True]
