"""Schemathesis compares the server with its description: requests, answers and errors."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

import app
from app.errors import InvalidTensor, PreflightRefused
from app.http.problems import INTERNAL, PROBLEMS, TYPE_PREFIX
from app.main import create_app
from app.schemas import ProblemDetails
from app.settings import Settings

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))


@st.composite
def images(draw):
    height, width = draw(SIZES)
    pixels = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width, 3))
    file = io.BytesIO()
    kind = draw(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]))
    Image.fromarray(pixels.astype(np.uint8)).save(file, format=kind)
    return file.getvalue()


schemathesis.openapi.media_type("application/octet-stream", images() | st.binary(max_size=200))


# A description cannot say which bytes are an image, nor how soon an answer can come.
REFUSALS = [400, 403, 406, 408, 413, 415, 422, 503]
CONFIG = {
    "checks": {
        "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]},
        "positive_data_acceptance": {"expected-statuses": ["2xx", *REFUSALS]},
        # The deadline may pass (408 or 503) before the server finds another error.
        "negative_data_rejection": {"expected-statuses": ["4xx", 503]},
    }
}
DESCRIPTION = create_app(Settings()).openapi()
schema = schemathesis.openapi.from_dict(DESCRIPTION, config=schemathesis.Config.from_dict(CONFIG))


@schema.parametrize()
@settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_its_description_says(server, case):
    case.call_and_validate(base_url=server.address)


def list_operations():
    for path, methods in DESCRIPTION["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_reference_of_the_description_leads_somewhere():
    """Schemathesis ignores a reference to nothing."""
    for kind, name in re.findall(r'"#/components/(\w+)/([\w-]+)"', json.dumps(DESCRIPTION)):
        assert name in DESCRIPTION["components"][kind]


def test_every_error_of_every_endpoint_is_declared_with_an_example():
    declared = set()
    for name, operation in list_operations():
        errors = {int(status) for status in operation["responses"]} - {200}
        assert {400, 408, 431, 500, 501, 503} <= errors, name
        for status in errors:
            content = operation["responses"][str(status)]["content"]
            if " /v2" in name:
                assert list(content) == ["application/json"]
                assert "error" in content["application/json"]["example"]
            else:
                is_state = name.startswith("GET /health") and status == 503
                assert is_state or list(content) == ["application/problem+json"]
                declared |= content["application/problem+json"]["examples"].keys()
    names = {problem.name for problem in PROBLEMS.values()} | {"internal"}
    # A preflight is no operation, and tensors are under /v2.
    assert declared == names - {PROBLEMS[PreflightRefused].name, PROBLEMS[InvalidTensor].name}


def test_an_example_is_a_problem_with_the_status_of_its_error():
    problems = {problem.name: problem for problem in (*PROBLEMS.values(), INTERNAL)}
    for name, example in DESCRIPTION["components"]["examples"].items():
        problem = ProblemDetails(**example["value"])
        assert (problem.type, problem.status) == (TYPE_PREFIX + name, problems[name].status)


def test_every_endpoint_has_a_plain_name_and_an_example():
    names = [operation["operationId"] for _, operation in list_operations()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z]+(_[a-z0-9]+)*", name) and "post" not in name for name in names)
    schemas = DESCRIPTION["components"]["schemas"]
    for name, operation in list_operations():
        for content in operation["responses"]["200"]["content"].values():
            schema = content["schema"]
            schema = schemas[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
            is_binary = schema.get("format") == "binary"
            assert is_binary or {"example", "examples"} & {*schema, *content}, name
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            assert "anyOf" not in schema, "generators cannot send null in a query or a header"
            if "$ref" not in schema:
                assert schema["examples"]


def test_the_description_is_the_same_for_every_application():
    """FastAPI merges into the dictionaries of a route, and adds to their lists again."""
    assert create_app(Settings()).openapi() == DESCRIPTION


def test_the_version_is_that_of_the_package():
    assert DESCRIPTION["info"]["version"] == app.__version__
