"""POST /v1/segment and GET /v1/model over real HTTP."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from app.routes.parameters import choose_scaling
from model.scaling import SERVED, Scaling, scale_to
from model.weights import read_metadata
from tests.app.codecs.test_decode import png_of_claimed_size, saved
from tests.app.conftest import serving
from tests.app.differences import explain_differences
from tests.conftest import PHOTO
from tests.model.test_engines import reference_logits


def png(array):
    return saved(Image.fromarray(array), format="PNG")


def indices(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.mode == "P"
        return np.asarray(image)


def reference_mask(network, image):
    height, width = image.shape[:2]
    canvas = np.empty((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.uint8)
    canvas[:] = (124, 116, 104)
    canvas[:height, :width] = image
    return reference_logits(network, canvas).argmax(dim=0).numpy()[:height, :width]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 31), (64, 64), (100, 451), (300, 451)])
def test_the_mask_of_any_size_equals_an_independent_forward_pass(
    client, notebook_network, photo, size
):
    image = photo[: size[0], : size[1]]
    mask = indices(client.post("/v1/segment", content=png(image)))
    assert mask.shape == size
    assert np.mean(mask == reference_mask(notebook_network, image)) >= 0.999


def test_a_320_x_480_photo_gets_the_notebooks_mask(client, notebook_network, photo):
    image = np.asarray(Image.fromarray(photo).resize((480, 320)))
    mask = indices(client.post("/v1/segment", files={"file": png(image)}))
    expected = reference_logits(notebook_network, image).argmax(dim=0).numpy()
    assert np.mean(mask == expected) >= 0.9999


@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"file": ("photo.jpg", PHOTO.read_bytes(), "image/jpeg")}},
        {"files": {"file": PHOTO.read_bytes()}, "data": {"note": "another field"}},
        {"content": PHOTO.read_bytes()},
        {"content": PHOTO.read_bytes(), "headers": {"Content-Type": "image/jpeg"}},
        {"content": PHOTO.read_bytes(), "headers": {"Content-Type": "application/octet-stream"}},
        {
            "content": PHOTO.read_bytes(),  # what curl --data-binary says unless it is told
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
        {"content": iter([PHOTO.read_bytes()[:5000], PHOTO.read_bytes()[5000:]])},  # chunked
    ],
)
def test_an_upload_may_be_a_form_or_the_body(client, request_):
    assert indices(client.post("/v1/segment", **request_)).shape == (300, 451)


def test_an_upload_may_be_base64_in_json(client):
    text = base64.b64encode(PHOTO.read_bytes()).decode()
    mask = indices(client.post("/v1/segment", content=PHOTO.read_bytes()))
    escaped = text.replace("/", r"\/").replace("+", r"\u002b")  # as PHP and .NET write it
    for body in (f'{{"image": "{text}"}}', f' {{ "image" :"{escaped}" }}\n'):
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answer = client.post("/v1/segment", content=body, headers=headers)
        assert np.array_equal(indices(answer), mask)
    overlay = client.post("/v1/segment?format=overlay&max_side=64", json={"image": text})
    assert Image.open(io.BytesIO(overlay.content)).size == (451, 300)


def test_the_answers_are_the_same_mask(client):
    body = PHOTO.read_bytes()
    mask = indices(client.post("/v1/segment", content=body))
    for choice in (
        {"params": {"format": "json"}},
        {"headers": {"Accept": "application/json"}},
        {"params": {"format": "json"}, "headers": {"Accept": "text/html"}},
    ):
        response = client.post("/v1/segment", content=body, **choice)
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        assert (answer["height"], answer["width"]) == (300, 451)
        assert np.array_equal(np.array(answer["mask"]), mask)
        counts = {entry["index"]: entry["pixels"] for entry in answer["classes"]}
        values, pixels = np.unique(mask, return_counts=True)
        assert counts == dict(zip(values.tolist(), pixels.tolist(), strict=True))
        assert sum(counts.values()) == mask.size
    response = client.post("/v1/segment?format=npy", content=body)
    assert response.headers["content-type"] == "application/x-npy"
    array = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert array.dtype == np.uint8
    assert np.array_equal(array, mask)
    response = client.post("/v1/segment?format=raw", content=body)
    assert response.headers["content-type"] == "application/octet-stream"
    shape = [int(side) for side in response.headers["x-mask-shape"].split(",")]
    assert np.array_equal(np.frombuffer(response.content, np.uint8).reshape(shape), mask)


def test_an_answer_names_its_weights_and_its_stages(client, settings):
    response = client.post("/v1/segment", content=PHOTO.read_bytes())
    assert response.headers["x-weights-digest"] == read_metadata(settings.weights).digest
    stages = [part.partition(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert stages == ["accept", "read", "decode", "queue", "inference", "encode"]
    assert response.headers["vary"] == "Accept, Accept-Encoding"


def test_a_large_photo_is_scaled_and_its_mask_is_not(client, photo):
    large = Image.fromarray(photo).resize((1804, 1200))
    mask = indices(client.post("/v1/segment", content=saved(large, format="JPEG", quality=90)))
    assert mask.shape == (1200, 1804)
    smaller = indices(client.post("/v1/segment?max_side=451", content=png(np.asarray(large))))
    assert smaller.shape == (1200, 1804)
    assert not np.array_equal(mask, smaller)


def test_max_side_keeps_within_the_sides_that_are_served_without_it():
    assert choose_scaling(None, SERVED) == SERVED
    assert choose_scaling(256, SERVED) == scale_to(256)
    assert choose_scaling(4096, SERVED) == scale_to(480)
    assert choose_scaling(4096, scale_to(1024)) == scale_to(1024)
    assert choose_scaling(512, Scaling(max_side=0, unscaled_side=480)) == scale_to(512)


def test_concurrent_callers_get_the_masks_they_would_get_alone(client, server, photo, tmp_path):
    images = [png(np.roll(photo, 37 * i, axis=1)[: 96 + 32 * (i % 2)]) for i in range(12)]

    def ask(data, by=client):
        answer = by.post("/v1/segment", content=data)
        assert answer.status_code == 200, answer.text
        return answer

    alone = [ask(image) for image in images]
    with ThreadPoolExecutor(12) as pool, httpx.Client(base_url=server.address, timeout=60) as many:
        together = list(pool.map(lambda data: ask(data, many), images))
    assert not explain_differences(images, alone, together, again=ask, folder=tmp_path)


def test_another_engine_gives_the_same_masks(client, settings):
    body = PHOTO.read_bytes()
    with serving(settings.model_copy(update={"engine": "torch"})) as (other, _):
        assert other.get("/v1/model").json()["engine"].startswith("torch ")
        mask = indices(other.post("/v1/segment", content=body))
    assert np.mean(mask == indices(client.post("/v1/segment", content=body))) >= 0.999


def test_the_model_is_described(client, settings):
    info = client.get("/v1/model").json()
    metadata = read_metadata(settings.weights)
    assert info["digest"] == metadata.digest
    assert info["device"] == "cpu"
    assert info["engine"].startswith(("native ", "ncnn "))
    assert len(info["classes"]) == 21
    assert info["classes"][15] == {"index": 15, "name": "person", "colour": [192, 128, 128]}
    assert info["limits"]["max_pixels"] == settings.max_pixels


PROBLEM_CASES = {
    "image-missing": (400, {"content": b""}),
    "image-missing, no field": (400, {"files": {"photo": b"x"}}),
    "image-missing, empty field": (400, {"files": {"file": b""}}),
    "image-missing, text field": (400, {"data": {"file": "x"}, "files": {"other": b"y"}}),
    "image-missing, two files": (400, {"files": [("file", b"x"), ("file", b"y")]}),
    "image-missing, broken form": (
        400,
        {"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=y"}},
    ),
    "image-missing, no boundary": (
        400,
        {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
    ),
    "broken-image": (422, {"content": PHOTO.read_bytes()[:3000]}),
    "broken-image, in a form": (422, {"files": {"file": PHOTO.read_bytes()[:3000]}}),
    "unsupported-type, bytes": (415, {"content": b"hello"}),
    "unsupported-type, name": (
        415,
        {"content": b"{}", "headers": {"Content-Type": "application/xml"}},
    ),
    **{
        f"image-missing, json {number}": (
            400,
            {"content": body, "headers": {"Content-Type": "application/json"}},
        )
        for number, body in enumerate(
            [
                b"{}",
                b'{"image": 1}',
                b'{"image": ""}',
                b'{"image": "a"}',
                b'{"image": "YQ==YQ=="}',
                b'{"image": "YWJj", "url": "x"}',
                b'{"image": "YW"Jj"}',
                b'{"image": "\xff"}',
                b"[" * 9999,
            ]
        )
    },
    "unsupported-type, base64": (415, {"json": {"image": "aGVsbG8="}}),
    "body-too-large, base64": (413, {"json": {"image": "A" * 8 * 2**20}}),
    "body-too-large, declared": (413, {"content": b"x" * (8 * 2**20 + 1)}),
    "body-too-large, chunked": (413, {"content": (b"x" * 2**20 for _ in range(9))}),
    "body-too-large, in a form": (413, {"files": {"file": b"x" * (8 * 2**20 + 1)}}),
    "too-many-pixels": (413, {"content": png_of_claimed_size(4000, 1001)}),
    "not-acceptable": (
        406,
        {"content": PHOTO.read_bytes(), "headers": {"Accept": "text/html"}},
    ),
    "invalid-parameter": (422, {"content": b"x", "params": {"format": "bmp"}}),
    "invalid-parameter, side": (422, {"content": b"x", "params": {"max_side": "0"}}),
}


@pytest.mark.parametrize("case", PROBLEM_CASES)
def test_every_error_is_a_problem_with_its_remedy(server, case):
    status, request = PROBLEM_CASES[case]
    with httpx.Client(base_url=server.address, timeout=60) as client:
        response = client.post("/v1/segment", **request)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "urn:segmentation:problem:" + case.partition(",")[0]
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["remedy"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"content": b"x", "params": {"format": "jpeg"}}, "query.format is 'jpeg': Input should"),
        ({"content": b"x", "params": {"max_side": "3"}}, "query.max_side is '3': Input should"),
        ({"content": b"x", "params": {"max_side": "9" * 99}}, f"is '{'9' * 50}': Input"),
        (
            {"content": b"x", "headers": {"X-Request-Timeout": "soon"}},
            "header.X-Request-Timeout is 'soon': Input should",
        ),
        ({"files": {"file": (None, "photo.jpg")}}, "with curl, write @, as in -F file=@photo.jpg"),
        ({"files": [("file", b"x"), ("file", b"x")]}, "/v1/segment/batch takes several"),
        ({"json": {"image": "data:image/png;base64,iVBO"}}, "without a prefix like data:image"),
    ],
)
def test_an_error_names_the_value_and_how_to_correct_it(client, request_, said):
    problem = client.post("/v1/segment", **request_).json()
    assert said in f"{problem['detail']} {problem['remedy']}"


@pytest.mark.parametrize("path", ["v1/segment", "v1/segment/batch", "v2/models/fcn_resnet18/infer"])
def test_a_compressed_body_is_refused(client, path):
    answer = client.post(path, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "Content-Encoding 'gzip' is not supported" in answer.text
    answer = client.post(path, content=b"x", headers={"Content-Encoding": "identity"})
    assert "Content-Encoding" not in answer.text


def test_unknown_paths_and_methods_are_problems_too(client):
    response = client.get("/v1/segment")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert response.headers["content-type"] == "application/problem+json"
    response = client.get("/v1/nothing")
    assert response.status_code == 404
    assert response.json()["type"] == "urn:segmentation:problem:not-found"
