"""Schemathesis holds the server against its description: what it takes, answers and refuses."""

import io
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from app.main import create_app
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


schemathesis.openapi.media_type("image/*", images() | st.binary(max_size=200))


# A description cannot say which bytes are an image, nor how soon an answer can come.
REFUSALS = [400, 403, 406, 408, 413, 415, 422, 503]
CONFIG = {
    "checks": {
        "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]},
        "positive_data_acceptance": {"expected-statuses": ["2xx", *REFUSALS]},
        # A caller's time may be over, 408 or 503, before the server sees what else is wrong.
        "negative_data_rejection": {"expected-statuses": ["4xx", 503]},
    }
}
DESCRIPTION = create_app(Settings()).openapi()
schema = schemathesis.openapi.from_dict(DESCRIPTION, config=schemathesis.Config.from_dict(CONFIG))


@schema.parametrize()
@settings(max_examples=100, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_its_description_says(server, case):
    case.call_and_validate(base_url=server.address)


def test_every_answer_of_the_description_is_described():
    """A reference to nothing, schemathesis passes over."""
    text = json.dumps(DESCRIPTION)
    for name in re.findall(r'"#/components/schemas/(\w+)"', text):
        assert name in DESCRIPTION["components"]["schemas"]
    problems = {
        (path, status): set(answer["content"])
        for path, methods in DESCRIPTION["paths"].items()
        for method in methods.values()
        for status, answer in method["responses"].items()
        if path.startswith("/v1/") and int(status) >= 400
    }
    assert len(problems) > 10
    assert set(map(frozenset, problems.values())) == {frozenset({"application/problem+json"})}
