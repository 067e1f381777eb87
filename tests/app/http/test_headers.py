"""Headers for browsers: security headers on every answer, and CORS if it is configured."""

import re
import socket

import httpx
import pytest

from app.access.keys import format_line, make_key
from app.http.headers import CORS_ANSWER_HEADERS, SECURITY_HEADERS
from app.setting_syntax import parse_origins
from app.settings import Settings
from tests.app.access.test_keys import bearer
from tests.app.conftest import serving
from tests.app.test_docs import table
from tests.conftest import PHOTO, REPOSITORY

PAGE = "https://app.example"
SECURITY = {name.decode(): value.decode() for name, value in SECURITY_HEADERS}


def secured(answer):
    return {name: answer.headers.get(name) for name in SECURITY} == SECURITY


def test_every_answer_has_the_security_headers(client):
    photo = PHOTO.read_bytes()
    assert secured(client.post("/v1/segment", content=photo))
    assert secured(client.post("/v1/segment", content=b"no image"))
    assert secured(client.post("/v1/segment", content=b"x" * (8 * 2**20 + 1)))
    for path in (
        "/v1/model",
        "/health/live",
        "/metrics",
        "/openapi.json",
        "/nothing",
        "/web/nothing",
    ):
        assert secured(client.get(path)), path
    assert secured(client.delete("/v1/model"))


def test_a_crash_has_the_security_headers_too(settings, monkeypatch):
    with serving(settings) as (client, _):
        monkeypatch.setattr("app.codecs.encode.encode_mask", None)
        answer = client.post("/v1/segment", content=PHOTO.read_bytes())
        assert answer.status_code == 500
        assert secured(answer)


def test_an_answer_to_an_invalid_request_has_them_too(server):
    url = httpx.URL(server.address)
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(b"this is not HTTP\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400")
    for name, value in SECURITY_HEADERS:
        assert b"\r\n%b: %b\r\n" % (name, value) in answer


def test_the_documentation_lists_the_headers_that_are_sent():
    text = (REPOSITORY / "docs" / "security.md").read_text()
    (browsers,) = re.findall(r"^### Browsers\n(.*?)(?=^#|\Z)", text, re.M | re.S)
    listed = table(browsers)
    assert {name.strip("`").lower(): value.strip("`") for name, value in listed} == SECURITY


def test_fastapis_own_pages_are_off(client):
    """Their scripts are inline and come from elsewhere; `tests/app/web` tests ours."""
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert client.get(path).status_code == 404


def test_without_the_setting_no_other_origin_may_read_an_answer(client):
    answer = client.get("/v1/model", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = client.options("/v1/segment", headers=preflight_headers())
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def preflight_headers(origin=PAGE, headers="authorization, x-api-key, x-request-timeout"):
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": headers,
    }


@pytest.fixture(scope="module")
def key():
    return make_key()


@pytest.fixture(scope="module")
def shared(settings, key, tmp_path_factory):
    """A client of a server with keys, a rate limit and one allowed origin, which it sends."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(format_line("anna", key))
    shared = {"cors_origins": PAGE, "keys_file": path, "rate_limit": "100/second;100/hour"}
    with serving(settings.model_copy(update=shared)) as (client, server):
        client.headers["Origin"] = PAGE
        client.server = server
        yield client


def readable(answer):
    """Whether a browser shows the answer to the page, with the headers that it needs."""
    exposed = answer.headers.get("access-control-expose-headers", "").split(", ")
    return answer.headers.get("access-control-allow-origin") == PAGE and exposed == list(
        CORS_ANSWER_HEADERS
    )


def test_a_preflight_needs_no_key(shared):
    answer = shared.options("/v1/segment", headers=preflight_headers())
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
    assert answer.headers["x-request-id"]
    assert secured(answer)


@pytest.mark.parametrize(
    ("headers", "what", "remedy"),
    [
        (preflight_headers("https://evil.example"), "https://evil.example", "SEG_CORS_ORIGINS"),
        (
            preflight_headers() | {"Access-Control-Request-Method": "DELETE"},
            "DELETE",
            "GET or POST",
        ),
        (preflight_headers(headers="x-other"), "x-other", "X-Request-Timeout"),
    ],
)
def test_a_refused_preflight_is_a_problem(shared, headers, what, remedy):
    answer = shared.options("/v1/segment", headers=headers)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:segmentation:problem:preflight-refused"
    assert what in answer.json()["detail"]
    assert remedy in answer.json()["remedy"]
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed == (None if "evil" in what else PAGE)
    assert secured(answer)
    metrics = httpx.get(f"{shared.server.address}/metrics").text
    assert 'seg_rejections_total{reason="preflight-refused"}' in metrics


@pytest.mark.parametrize("other", ["https://evil.example", "null", f"{PAGE}.evil.example"])
def test_a_page_of_another_origin_may_neither_ask_nor_read(shared, key, other):
    assert shared.options("/v1/segment", headers=preflight_headers(other)).status_code == 400
    answer = shared.get("/v1/model", headers=bearer(key) | {"Origin": other})
    assert "access-control-allow-origin" not in answer.headers


def test_answers_and_problems_can_be_read_by_the_page(shared, key, monkeypatch):
    photo, mine = PHOTO.read_bytes(), bearer(key)
    answer = shared.post("/v1/segment", content=photo, headers=mine)
    assert answer.status_code == 200
    assert readable(answer)
    assert {part.strip() for part in answer.headers["vary"].split(",")} == {
        "Accept",
        "Accept-Encoding",
        "Origin",
    }
    problems = {
        401: shared.post("/v1/segment", content=photo),
        404: shared.get("/v1/nothing", headers=mine),
        413: shared.post("/v1/segment", content=b"x" * (8 * 2**20 + 1), headers=mine),
        415: shared.post("/v1/segment", content=b"no image", headers=mine),
    }
    with monkeypatch.context() as patch:
        patch.setattr("app.codecs.encode.encode_mask", None)
        problems[500] = shared.post("/v1/segment", content=photo, headers=mine)
    while (answer := shared.get("/v1/model", headers=mine)).status_code == 200:
        pass
    problems[429] = answer
    for status, answer in problems.items():
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert readable(answer), status
        assert secured(answer), status
        assert answer.headers["x-request-id"]
    after = httpx.get(f"{shared.server.address}/metrics").text
    assert 'seg_requests_total{route="/v1/segment",status="500"} 1.0' in after


def test_every_origin_may_be_allowed(settings):
    with serving(settings.model_copy(update={"cors_origins": "*"})) as (client, _):
        answer = client.get("/v1/model", headers={"Origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "*"


def test_origins_are_a_list_with_commas():
    assert parse_origins("https://a.example, http://localhost:3000") == [
        "https://a.example",
        "http://localhost:3000",
    ]


@pytest.mark.parametrize(
    "text", ["app.example", "https://a.example/", "https://a.example,", "null", "https://*.example"]
)
def test_an_invalid_origin_is_refused(text):
    with pytest.raises(ValueError, match="is not an origin"):
        Settings(cors_origins=text)
