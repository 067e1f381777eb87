"""A client that a public generator makes from docs/openapi.json works with its defaults."""

import importlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import PHOTO, REPOSITORY

pytest.importorskip("openapi_python_client", reason="openapi-python-client is not installed")

DOCUMENT = REPOSITORY / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The name of the generated package, which can be imported."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "config.yml").write_text("post_hooks: []\n")  # which format the code with ruff
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--meta=none"]
    run = subprocess.run(
        [*command, f"--path={DOCUMENT}", "--output-path=generated_client", "--config=config.yml"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "warning" not in (run.stdout + run.stderr).lower(), run.stdout + run.stderr
    sys.path.insert(0, str(folder))
    yield "generated_client"
    sys.path.remove(str(folder))


@pytest.fixture
def segment(generated):
    return importlib.import_module(f"{generated}.api.segmentation.segment").sync


@pytest.fixture
def types(generated):
    return importlib.import_module(f"{generated}.types")


@pytest.fixture
def caller(generated, server):
    return importlib.import_module(generated).Client(base_url=server.address, timeout=300)


def test_the_committed_document_is_the_servers(client):
    """Run `make openapi` where it is not."""
    assert json.loads(DOCUMENT.read_text()) == client.get("/openapi.json").json()


def test_the_default_call_segments_a_photo(segment, types, caller):
    with PHOTO.open("rb") as photo:
        answer = segment(client=caller, body=types.File(payload=photo))
    mask = np.asarray(Image.open(answer.payload))
    assert (mask.shape, mask.dtype) == ((300, 451), np.uint8)


def test_a_form_and_every_parameter_work(generated, segment, types, caller):
    models = importlib.import_module(f"{generated}.models")
    with PHOTO.open("rb") as photo:
        answer = segment(
            client=caller,
            body=models.SegmentFilesBody(file=types.File(payload=photo, file_name="cat.jpg")),
            format_=models.AnswerFormat.JSON,
            max_side=256,
            x_request_timeout=300.0,
        )
    body = models.Segmentation.from_dict(json.loads(answer.payload.read()))
    assert (body.height, body.width, len(body.mask)) == (300, 451, 300)


def test_an_error_is_a_problem_with_its_fields(generated, segment, types, caller):
    models = importlib.import_module(f"{generated}.models")
    problem = segment(client=caller, body=types.File(payload=io.BytesIO(b"hello")))
    assert isinstance(problem, models.ProblemDetails)
    assert (problem.status, problem.type_.split(":")[-1]) == (415, "unsupported-type")


def test_every_other_endpoint_has_its_plain_name(generated, caller, settings):
    def call(name):
        return importlib.import_module(f"{generated}.api.{name}").sync(client=caller)

    assert call("operations.live").status == "alive"
    assert call("operations.ready").status == "ready"
    assert "seg_ready" in call("operations.metrics")
    assert call("segmentation.model").limits.max_pixels == settings.max_pixels
    assert call("admin.reload").status == 403
    assert call("open_inference_protocol.server_ready").ready
    assert call("open_inference_protocol.model_metadata").name == "fcn_resnet18"
