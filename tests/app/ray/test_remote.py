"""What an ingress replica does with each answer of Serve's handle; there is no cluster."""

import re

import numpy as np
import pytest

from app.errors import Overloaded
from model.engines.base import Region
from model.errors import EngineError
from model.weights import read_weights

pytest.importorskip("ray", reason="needs the extra ray")

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from app.ray.remote import ATTEMPTS, RemoteEngine

SIZE = (32, 32)
MASK = np.ones(SIZE, np.uint8)


class ScriptedHandle:
    """Has the methods of a handle that are used; each call of `segment` gives the next answer."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []
        self.cancelled = 0

    @property
    def describe(self):
        return ScriptedMethod(lambda: ("an engine", "cpu"))

    @property
    def segment(self):
        return ScriptedMethod(self.answer, on_cancel=self.count_cancelled)

    def answer(self, *arguments):
        self.calls.append(arguments)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def count_cancelled(self):
        self.cancelled += 1


class ScriptedMethod:
    def __init__(self, call, on_cancel=None):
        self.call, self.cancel = call, on_cancel

    def remote(self, *arguments):
        self.arguments = arguments
        return self

    def result(self, *, timeout_s):
        assert timeout_s <= 60
        return self.call(*self.arguments)


@pytest.fixture(scope="module")
def weights(weights_file):
    return read_weights(weights_file)


def segment(handle, weights, callers=8):
    engine = RemoteEngine(handle, weights, callers=callers, timeout_s=60)
    assert (engine.description, engine.device) == ("an engine", "cpu")
    (mask,) = engine.segment([np.zeros((*SIZE, 3), np.uint8)], [Region(SIZE, SIZE)])
    return mask


def test_the_weights_go_along_only_to_a_replica_that_lacks_them(weights):
    handle = ScriptedHandle(None, MASK)
    assert segment(handle, weights) is MASK
    sent = [(digest, confidence, sent) for digest, _, confidence, sent in handle.calls]
    digest = weights.metadata.digest
    assert sent == [(digest, False, None), (digest, False, weights)]


def test_another_replica_computes_what_one_that_ended_has_lost(weights):
    handle = ScriptedHandle(RayActorError(), MASK)
    assert segment(handle, weights) is MASK
    assert len(handle.calls) == 2


def test_an_image_that_ends_every_replica_is_given_to_a_few_only(weights):
    handle = ScriptedHandle(*[RayActorError()] * (ATTEMPTS + 1))
    with pytest.raises(EngineError, match=f"{ATTEMPTS} engine replicas ended"):
        segment(handle, weights)
    assert len(handle.calls) == ATTEMPTS


@pytest.mark.parametrize(
    ("error", "text"),
    [(BackPressureError(8, 8), "are full"), (TimeoutError(), "was free")],
    ids=["full", "late"],
)
def test_a_full_cluster_is_an_overload_that_says_when_to_try_again(weights, error, text):
    handle = ScriptedHandle(error)
    with pytest.raises(Overloaded, match=re.escape(text)) as raised:
        segment(handle, weights)
    assert raised.value.retry_after_s >= 1
    assert handle.cancelled == (type(error) is TimeoutError)


def test_no_replica_at_the_start_is_an_error_of_the_start(weights):
    class Absent(ScriptedHandle):
        @property
        def describe(self):
            return ScriptedMethod(self.answer)

    with pytest.raises(EngineError, match="no engine replica has answered within 60 s"):
        segment(Absent(TimeoutError()), weights)
