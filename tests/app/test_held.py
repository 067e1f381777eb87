"""The memory of a request counts until it is released, however the request ends, and no longer."""

import io
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from app.codecs import decode, encode
from tests.app.conftest import connected, held_by, serving, wait_for_metric, wait_for_rest
from tests.conftest import PHOTO

PHOTO_PIXELS = 300 * 451


@pytest.fixture
def lone(settings):
    """A server with one codec thread."""
    with serving(settings.model_copy(update={"codec_threads": 1})) as (client, server):
        yield client, server


@contextmanager
def gated(monkeypatch):
    """Makes decoding wait before it reads the file. Returns the events `begun` and `goes_on`."""
    decode_image, begun, goes_on = decode.decode_image, threading.Event(), threading.Event()

    def waits(*arguments, **options):
        begun.set()
        assert goes_on.wait(60)
        return decode_image(*arguments, **options)

    monkeypatch.setattr(decode, "decode_image", waits)
    try:
        yield begun, goes_on
    finally:
        goes_on.set()


def post(body: bytes) -> bytes:
    return b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_decoding_that_outlives_its_request_reserves_no_pixels(lone, monkeypatch):
    client, server = lone
    photo = PHOTO.read_bytes()
    with gated(monkeypatch) as (begun, goes_on):
        for timeout_s in (0.05, 0.5, 5, 20):  # a busy machine may not come to decoding so soon
            headers = {"X-Request-Timeout": str(timeout_s)}
            late = client.post("/v1/segment", content=photo, headers=headers)
            assert late.status_code in (408, 503)
            if begun.is_set():
                break
        held = held_by(server)
        assert held == {"seg_in_flight": 1, "seg_codec_tasks": 1, "seg_upload_bytes": len(photo)}
        goes_on.set()
        wait_for_rest(server)
    assert client.post("/v1/segment", content=photo).status_code == 200


def test_pixels_count_until_their_decoding_ends(lone, monkeypatch):
    _, server = lone
    loaded, begun, goes_on = decode.decode_jpeg, threading.Event(), threading.Event()

    def waits(*arguments):
        begun.set()
        assert goes_on.wait(60)
        return loaded(*arguments)

    monkeypatch.setattr(decode, "decode_jpeg", waits)
    with connected(server) as caller:
        caller.sendall(post(PHOTO.read_bytes()))
        assert begun.wait(60)
    wait_for_metric(server, "seg_dropped_total", 1, stage="decode")
    assert held_by(server)["seg_pixels"] == PHOTO_PIXELS
    assert held_by(server)["seg_in_flight"] == 1
    goes_on.set()
    wait_for_rest(server)


@pytest.mark.parametrize("max_side", [512, 64], ids=["not scaled", "scaled"])
def test_the_photo_of_an_overlay_counts_like_another_image(lone, monkeypatch, max_side):
    client, server = lone
    encoded, held = encode.encode_overlay, []

    def notes(*arguments):
        held.append(held_by(server)["seg_pixels"])
        return encoded(*arguments)

    monkeypatch.setattr(encode, "encode_overlay", notes)
    path = f"/v1/segment?format=overlay&max_side={max_side}"
    assert client.post(path, content=PHOTO.read_bytes()).status_code == 200
    assert held == [2 * PHOTO_PIXELS]


def test_uploads_of_disconnected_requests_in_the_queue_are_released_at_once(lone, monkeypatch):
    _, server = lone
    photo = PHOTO.read_bytes()
    with gated(monkeypatch) as (begun, _):
        with connected(server) as first:
            first.sendall(post(photo))
            assert begun.wait(60)
            for number in range(1, 9):
                with connected(server) as leaver:
                    leaver.sendall(post(photo))
                    wait_for_metric(server, "seg_in_flight", 2)
                wait_for_metric(server, "seg_dropped_total", number, stage="decode")
                assert held_by(server)["seg_upload_bytes"] == len(photo)
                assert server.service.codecs.waiting == 0
        wait_for_metric(server, "seg_dropped_total", 9, stage="decode")
        assert held_by(server)["seg_upload_bytes"] == len(photo)  # its decoding still runs


def test_decoding_of_disconnected_requests_keeps_their_places_until_it_ends(settings, monkeypatch):
    """So a caller that connects and disconnects again and again is refused."""
    limits = {"codec_threads": 1, "max_queue": 1}
    with (
        serving(settings.model_copy(update=limits)) as (client, server),
        gated(monkeypatch) as (begun, goes_on),
    ):
        with connected(server) as caller:
            caller.sendall(post(PHOTO.read_bytes()))
            assert begun.wait(60)
        wait_for_metric(server, "seg_dropped_total", 1, stage="decode")
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 503
        goes_on.set()
        wait_for_rest(server)
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200


def heavy_jpeg() -> bytes:
    """Two megapixels after 65,000 empty segments, which take longer to read than the header."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((1000, 2000, 3), np.uint8)).save(file, "JPEG")
    data = file.getvalue()
    return data[:2] + 65_000 * b"\xff\xe1\0\x02" + data[2:]


def test_nothing_leaks_at_whatever_moment_a_request_ends(lone):
    """The original attack: each request may end in a different step of decoding."""
    client, server = lone
    body = heavy_jpeg()
    for milliseconds in range(1, 120, 5):
        client.post(
            "/v1/segment", content=body, headers={"X-Request-Timeout": str(milliseconds / 1000)}
        )
        with connected(server) as leaver:
            leaver.sendall(post(body))
            leaver.shutdown(socket.SHUT_RDWR)
    wait_for_rest(server)
    assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200
