"""The Open Inference Protocol at /v2, by Triton's own client and by hand."""

import base64
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from app import __version__
from app.access.keys import format_line, make_key
from tests.app.conftest import serving
from tests.conftest import PHOTO

INFER = "/v2/models/fcn_resnet18/infer"
LENGTH = "Inference-Header-Content-Length"


def image_input(pixels, **rest):
    return {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), **rest}


@pytest.fixture(scope="module")
def expected(client, photo):
    body = io.BytesIO()
    Image.fromarray(photo[:40, :50]).save(body, "PNG")
    return np.load(
        io.BytesIO(client.post("/v1/segment?format=npy", content=body.getvalue()).content)
    )


@pytest.fixture
def triton(server):
    http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
    address = server.address.removeprefix("http://")
    with http.InferenceServerClient(address, connection_timeout=300, network_timeout=300) as client:
        yield http, client


def test_tritons_client_finds_the_server_and_the_model(triton):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fcn_resnet18")
    assert client.is_model_ready("fcn_resnet18", "1")
    assert not client.is_model_ready("another")
    assert client.get_server_metadata() == {
        "name": "fcn-segmentation-service",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    metadata = client.get_model_metadata("fcn_resnet18")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image", "file"]
    config = client.get_model_config("fcn_resnet18")
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_UINT8", "TYPE_STRING"]


@pytest.mark.parametrize("sends_binary", [True, False])
@pytest.mark.parametrize("receives_binary", [True, False])
def test_tritons_client_sends_pixels(triton, photo, expected, sends_binary, receives_binary):
    http, client = triton
    pixels = np.ascontiguousarray(photo[:40, :50])
    tensor = http.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=sends_binary)
    outputs = [http.InferRequestedOutput("mask", binary_data=receives_binary)]
    answer = client.infer("fcn_resnet18", [tensor], outputs=outputs, request_id="seven")
    assert np.array_equal(answer.as_numpy("mask"), expected)
    assert answer.get_response()["id"] == "seven"
    plain = client.infer("fcn_resnet18", [tensor], model_version="1")
    assert np.array_equal(plain.as_numpy("mask"), expected)


def test_tritons_client_sends_a_file(triton, client):
    http, inference = triton
    tensor = http.InferInput("file", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PHOTO.read_bytes()], np.object_))
    mask = inference.infer("fcn_resnet18", [tensor]).as_numpy("mask")
    body = client.post("/v1/segment?format=npy", content=PHOTO.read_bytes()).content
    assert np.array_equal(mask, np.load(io.BytesIO(body)))


def test_tritons_client_gets_a_clear_error(triton):
    http, client = triton
    tensor = http.InferInput("file", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"hello"], np.object_))
    with pytest.raises(Exception, match="not an image of a supported format") as refused:
        client.infer("fcn_resnet18", [tensor])
    assert refused.value.status() == "415"


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (31, 33)])
@pytest.mark.parametrize("nested", [True, False])
def test_json_tensors_of_any_size(client, photo, size, nested):
    pixels = photo[: size[0], : size[1]]
    data = pixels.tolist() if nested else pixels.ravel().tolist()
    answer = client.post(INFER, json={"inputs": [image_input(pixels, data=data)]}).json()
    (output,) = answer["outputs"]
    assert (output["shape"], len(output["data"])) == (list(size), size[0] * size[1])
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode()
    tensor = {"name": "file", "datatype": "BYTES", "shape": [1], "data": [text]}
    assert client.post(INFER, json={"inputs": [tensor]}).json() == answer


PIXELS = np.zeros((2, 3, 3), np.uint8)
GOOD = image_input(PIXELS, data=[0] * 18)
INVALID = {
    "no json": b"{",
    "no object": b"[]",
    "no inputs": {},
    "two inputs": {"inputs": [GOOD, GOOD]},
    "no tensor": {"inputs": [1]},
    "no shape": {"inputs": [{"name": "image", "datatype": "UINT8", "data": []}]},
    "negative": {"inputs": [GOOD | {"shape": [-2, -3, 3]}]},
    "true": {"inputs": [GOOD | {"shape": [True, 6, 3]}]},
    "huge": {"inputs": [GOOD | {"shape": [2**62, 2**62, 3]}]},
    "grey": {"inputs": [GOOD | {"shape": [2, 9, 1]}]},
    "floats": {"inputs": [GOOD | {"data": [0.5] * 18}]},
    "256": {"inputs": [GOOD | {"data": [256] * 18}]},
    "ragged": {"inputs": [GOOD | {"data": [[0] * 9, 0]}]},
    "ragged inside": {"inputs": [GOOD | {"data": [[[0] * 9], [[0] * 3] * 3]}]},
    "nested otherwise": {"inputs": [GOOD | {"data": [[0] * 18]}]},
    "four sides": {"inputs": [GOOD | {"shape": [1, 2, 3, 3]}]},
    "many sides": {
        "inputs": [{"name": "file", "datatype": "BYTES", "shape": [9] * 10**6, "data": ["AA=="]}]
    },
    "many ones": {
        "inputs": [{"name": "file", "datatype": "BYTES", "shape": [1] * 10**6, "data": ["AA=="]}]
    },
    "deep name": b'{"inputs":[{"name":' + b"[" * 1000 + b"]" * 1000 + b',"shape":[1],"data":[]}]}',
    "deep type": b'{"inputs":[{"name":"file","datatype":' + b"[" * 1000 + b"]" * 1000 + b"}]}",
    "short": {"inputs": [GOOD | {"data": [0] * 17}]},
    "text": {"inputs": [GOOD | {"data": "0"}]},
    "unknown": {"inputs": [GOOD | {"name": "picture"}]},
    "other type": {"inputs": [GOOD | {"datatype": "FP32"}]},
    "no data": {"inputs": [image_input(PIXELS)]},
    "size": {"inputs": [image_input(PIXELS, parameters={"binary_data_size": 18})]},
    "output": {"inputs": [GOOD], "outputs": [{"name": "logits"}]},
    "outputs": {"inputs": [GOOD], "outputs": {}},
    "parameters": {"inputs": [GOOD], "parameters": []},
    "id": {"inputs": [GOOD], "id": 1},
    "base64": {"inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "data": ["!"]}]},
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_request_is_an_error_of_the_protocol(client, case):
    body = INVALID[case] if isinstance(INVALID[case], bytes) else json.dumps(INVALID[case])
    answer = client.post(INFER, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert "invalid" in answer.json()["error"]


def binary(document, data):
    head = json.dumps(document).encode()
    return {"content": head + data, "headers": {LENGTH: str(len(head))}}


@pytest.mark.parametrize(
    "request_",
    [
        {"content": b"{}", "headers": {LENGTH: "3"}},
        {"content": b"{}", "headers": {LENGTH: "-1"}},
        {"content": b"{}", "headers": {LENGTH: "9" * 5000}},
        binary({"inputs": [image_input(PIXELS, parameters={"binary_data_size": 18})]}, b"x" * 17),
        binary({"inputs": [image_input(PIXELS, parameters={"binary_data_size": 17})]}, b"x" * 17),
        binary({"inputs": [image_input(PIXELS, parameters={"binary_data_size": True})]}, b"x"),
        binary({"inputs": [GOOD]}, b"not announced"),
        *(
            binary(
                {
                    "inputs": [
                        {
                            "name": "file", "datatype": "BYTES", "shape": [1],
                            "parameters": {"binary_data_size": len(data)},
                        }
                    ]
                },
                data,
            )
            for data in (b"", b"abc", struct.pack("<I", 9) + b"short")
        ),
    ],
)  # fmt: skip
def test_invalid_binary_data_is_an_error_of_the_protocol(client, request_):
    answer = client.post(INFER, **request_)
    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]


def test_limits_hold_for_tensors_too(client):
    long = {"inputs": [GOOD], "id": "x" * 2**22}
    assert client.post(INFER, json=long).status_code == 413
    pixels = np.broadcast_to(np.uint8(0), (2001, 2000, 3))  # the limit is 4 000 000
    size = {"binary_data_size": pixels.size}
    request = binary({"inputs": [image_input(pixels, parameters=size)]}, bytes(pixels.size))
    request["content"] = request["content"][: 8 * 2**20 + 1]
    assert client.post(INFER, **request).status_code == 413


def test_every_error_under_v2_is_one_of_the_protocol(client):
    for method, path, status in (
        ("GET", "/v2/models/another", 404),
        ("GET", INFER, 405),
        ("POST", INFER, 400),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status, path
        assert list(answer.json()) == ["error"]
    assert "title" in client.get("/v20").json()


def test_the_remedies_under_v2_are_about_tensors(client):
    form = client.post(INFER, files={"file": b"x"})
    assert form.status_code == 415
    assert form.json()["error"].endswith("or application/octet-stream with binary data.")
    empty = client.post(INFER)
    assert empty.status_code == 400
    assert "Send the tensors" in empty.json()["error"]


def test_a_slash_behind_a_path_leads_nowhere(client):
    """A redirect would lead to whatever the Host field says."""
    for path in ("/v1/segment/", f"{INFER}/", "/health/live/"):
        answer = client.post(path, headers={"Host": "evil.example"}, follow_redirects=False)
        assert answer.status_code == 404, path
        assert "location" not in answer.headers


def test_keys_hold_under_v2_but_not_for_its_probes(settings, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(format_line("anna", make_key()) + "\n")
    with serving(settings.model_copy(update={"keys_file": keys})) as (client, _):
        assert client.get("/v2/health/live").json() == {"live": True}
        assert client.get("/v2/health/ready").json() == {"ready": True}
        answer = client.get("/v2/models/fcn_resnet18/ready")
        assert (answer.status_code, list(answer.json())) == (401, ["error"])
