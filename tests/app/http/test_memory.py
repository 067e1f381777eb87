"""Freed memory returns to the system after requests with images, but not during them."""

import threading

import pytest

from tests.app.conftest import connected, serving
from tests.app.test_held import gated, post
from tests.conftest import PHOTO


@pytest.fixture
def released(monkeypatch):
    event = threading.Event()
    monkeypatch.setattr("app.http.memory.PAUSE_S", 0)
    monkeypatch.setattr("app.observability.allocator.give_back", event.set)
    return event


@pytest.mark.parametrize("body", [PHOTO.read_bytes(), b"not an image"], ids=["photo", "refused"])
def test_memory_is_released_after_a_request(settings, released, body):
    with serving(settings) as (client, _):
        released.clear()  # the start releases memory, too
        client.get("/health/live")
        client.get("/metrics")
        assert not released.is_set()
        client.post("/v1/segment", content=body)
        assert released.wait(60)


def test_no_memory_is_released_while_a_request_is_in_flight(settings, released, monkeypatch):
    with (
        serving(settings.model_copy(update={"codec_threads": 2})) as (client, server),
        gated(monkeypatch) as (begun, goes_on),
        connected(server) as caller,
    ):
        released.clear()
        caller.sendall(post(PHOTO.read_bytes()))
        assert begun.wait(60)
        client.post("/v1/segment", content=b"not an image")
        client.get("/health/live")  # by its answer, the pause has ended
        assert not released.is_set()
        goes_on.set()
        assert released.wait(60)
