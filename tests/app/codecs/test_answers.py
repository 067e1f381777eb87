"""Large answers have the same bytes, are held compressed, and count until they are read."""

import base64
import gzip
import io
import socket
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from app.codecs import encode, jsonmask
from app.codecs.answers import LARGEST_PIECE_BYTES, WHOLE_BYTES, make_answer
from app.codecs.tensor_answers import make_tensor_answer
from app.codecs.tensors import InferenceRequest
from app.formats import MASK_FORMATS, AnswerFormat, AnswerOptions
from model.weights import Metadata
from tests.app.conftest import changes, held_by, serving, wait_for_rest
from tests.conftest import PHOTO

SHAPES = [
    (1, 1),
    (3, 5),
    (300, 451),
    (2, jsonmask.PART_PIXELS),
    (2, jsonmask.PART_PIXELS + 1),
    (3, 2 * jsonmask.PART_PIXELS),
    (1, 1_200_000),
    (1_200_000, 1),
    (1500, 1201),
]


def mask_of(shape):
    """A mask with indices of one and of two digits."""
    return np.random.default_rng(0).integers(0, 21, shape).astype(np.uint8)


def body_of(answer):
    return b"".join(answer.pieces) if answer.whole is None else answer.whole


@pytest.mark.parametrize("shape", SHAPES)
def test_the_json_of_parts_is_the_json_of_the_whole(shape):
    mask, metadata = mask_of(shape), Metadata()
    whole = {
        "height": shape[0],
        "width": shape[1],
        "classes": jsonmask.list_present(jsonmask.count(mask), metadata.classes),
        "mask": mask,
        "weights": metadata.digest,
    }
    expected = orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY)
    assert encode.encode_json(mask, metadata) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("answer", [*MASK_FORMATS, AnswerFormat.RLE])
def test_an_answer_in_pieces_or_compressed_is_the_same(shape, answer):
    mask, metadata = mask_of(shape), Metadata()
    expected = encode.encode_mask(mask, answer, metadata)
    plain = make_answer(mask, AnswerOptions(format=answer), metadata)
    assert (plain.encoding, plain.size_bytes, body_of(plain)) == (None, len(expected), expected)
    small = make_answer(mask, AnswerOptions(format=answer, accepts_gzip=True), metadata)
    body = body_of(small)
    assert small.size_bytes == len(body)
    assert (gzip.decompress(body) if small.encoding else body) == expected


@pytest.mark.parametrize("answer", [AnswerFormat.JSON, AnswerFormat.NPY, AnswerFormat.RAW])
@pytest.mark.parametrize("shape", [(4000, 1000), (4_000_000, 1), (1, 4_000_000)])
def test_a_large_answer_is_held_in_little_memory(shape, answer):
    made = make_answer(np.zeros(shape, np.uint8), AnswerOptions(format=answer), Metadata())
    assert made.whole is None
    assert made.size_bytes >= 4_000_000
    assert made.held_bytes <= WHOLE_BYTES
    assert max(map(len, made.pieces)) <= LARGEST_PIECE_BYTES


def tensor_of(mask, *, is_binary, identity="one"):
    request = InferenceRequest(identity, None, None, is_binary)
    return make_tensor_answer(request, mask, model="m", version="1")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_tensor_in_pieces_is_the_tensor(shape):
    mask = mask_of(shape)
    answer, json_bytes = tensor_of(mask, is_binary=False)
    body = body_of(answer)
    (output,) = orjson.loads(body)["outputs"]
    assert (json_bytes, len(body)) == (None, answer.size_bytes)
    assert (output["shape"], output["data"]) == (list(shape), mask.ravel().tolist())
    answer, json_bytes = tensor_of(mask, is_binary=True)
    body = body_of(answer)
    assert len(body) == answer.size_bytes
    assert orjson.loads(body[:json_bytes])["id"] == "one"
    assert body[json_bytes:] == mask.tobytes()


@pytest.mark.parametrize("is_binary", [True, False])
def test_a_large_tensor_is_held_in_little_memory(is_binary):
    made, _ = tensor_of(np.zeros((4000, 1000), np.uint8), is_binary=is_binary)
    assert made.whole is None
    assert made.held_bytes <= WHOLE_BYTES
    assert max(map(len, made.pieces)) <= LARGEST_PIECE_BYTES


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(file, "WEBP")
    return file.getvalue()


@contextmanager
def slow_reader(server, path="/v1/segment?format=json", body=None):
    """A connection that has requested 8 MB of JSON and has read the first bytes."""
    url, body = httpx.URL(server.address), body or picture()
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(60)
        caller.connect((url.host, url.port))
        caller.sendall(
            b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % (path.encode(), len(body)) + body
        )
        assert caller.recv(12) == b"HTTP/1.1 200"
        yield caller


@pytest.fixture
def sending(settings):
    """A server with memory for two large answers but not for a third, and with long timeouts.

    Each answer holds about 0.8 WHOLE_BYTES, and may take at most half of what is free.
    """
    limits = {"max_sending_bytes": 3 * WHOLE_BYTES, "send_timeout_s": 600, "max_side": 64}
    with serving(settings.model_copy(update=limits)) as (client, server):
        yield client, server


def test_answers_count_until_they_are_read_and_share_a_limit(sending):
    client, server = sending
    with ExitStack() as stack:
        callers = [stack.enter_context(slow_reader(server)) for _ in range(2)]
        assert 2 * 2**18 < held_by(server)["seg_answer_bytes"] < 2 * WHOLE_BYTES
        held = held_by(server).keys() - {"seg_codec_tasks"}  # it may be compressing the next piece
        assert held == {"seg_answer_bytes"}  # not the upload, not the pixels
        refused = client.post(
            "/v1/segment?format=json", content=picture(), headers={"Accept-Encoding": "identity"}
        )
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert 'seg_rejections_total{reason="answer-bytes"} 1' in client.get("/metrics").text
        assert client.post("/v1/segment", content=PHOTO.read_bytes()).status_code == 200
        callers[0].close()
        changes.wait_until(lambda: held_by(server)["seg_answer_bytes"] <= WHOLE_BYTES)
        answer = client.post("/v1/segment?format=json", content=picture())
        whole = callers[1].makefile("rb").read().partition(b"\r\n\r\n")[2]
        assert orjson.loads(whole) == answer.json()
    wait_for_rest(server)


def test_an_overlay_is_refused_before_it_is_encoded_if_it_may_not_fit(sending):
    client, server = sending
    flat = io.BytesIO()
    Image.new("RGB", (800, 600)).save(flat, "PNG")
    with slow_reader(server), slow_reader(server):
        refused = client.post("/v1/segment?format=overlay", content=flat.getvalue())
        assert refused.status_code == 503
        assert 'seg_rejections_total{reason="answer-bytes"} 1' in client.get("/metrics").text
    wait_for_rest(server)
    overlay = client.post("/v1/segment?format=overlay", content=flat.getvalue())
    assert overlay.status_code == 200
    assert len(overlay.content) < WHOLE_BYTES / 4  # it would have fit
    wait_for_rest(server)


def test_a_tensor_is_held_compressed_until_it_is_read(sending):
    client, server = sending
    path = "/v2/models/fcn_resnet18/infer"
    text = base64.b64encode(picture()).decode()
    tensor = {"name": "file", "datatype": "BYTES", "shape": [1], "data": [text]}
    with slow_reader(server, path, orjson.dumps({"inputs": [tensor]})) as caller:
        assert 2**18 < held_by(server)["seg_answer_bytes"] < WHOLE_BYTES
        whole = caller.makefile("rb").read().partition(b"\r\n\r\n")[2]
    mask = client.post("/v1/segment?format=raw", content=picture()).content
    assert bytes(orjson.loads(whole)["outputs"][0]["data"]) == mask
    wait_for_rest(server)


def test_large_json_is_compressed_for_callers_that_accept_it(sending):
    client, _ = sending
    plain = client.post(
        "/v1/segment?format=json", content=picture(), headers={"Accept-Encoding": "identity"}
    )
    small = client.post("/v1/segment?format=json", content=picture())
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert 10 * int(small.headers["content-length"]) < int(plain.headers["content-length"])
    assert small.content == plain.content
    assert {answer.headers["vary"] for answer in (small, plain)} == {"Accept, Accept-Encoding"}
