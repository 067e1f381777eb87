"""API keys: over real HTTP, their file, and the command that makes them."""

import asyncio
import os
import socket
import subprocess
import sys

import httpx
import pytest
from fastapi import Depends
from structlog.testing import capture_logs

from app.access.check import require_admin
from app.access.keys import (
    CLOCK_TICK_NS,
    KEY_PREFIX,
    Keyring,
    KeysError,
    format_line,
    make_key,
    parse_keys,
)
from app.http.paths import PUBLIC_PATHS
from app.main import create_app
from tests.app.conftest import serving
from tests.app.test_program import logged, program
from tests.conftest import PHOTO, REPOSITORY

ANNA, BORIS, ADMIN = make_key(), make_key(), make_key()
LINES = [
    format_line("anna", ANNA),
    format_line("boris", BORIS),
    format_line("root", ADMIN, admin=True),
]


@pytest.fixture
def keys_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# who may call\n\n" + "\n".join(LINES) + "\n")
    return path


@pytest.fixture(scope="module")
def guarded(settings, tmp_path_factory):
    """A client of a server with keys, whose endpoint /v1/admin/nothing needs an admin."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("\n".join(LINES))
    with serving(settings.model_copy(update={"keys_file": path})) as (client, server):
        application = server.config.app

        @application.get("/v1/admin/nothing", dependencies=[Depends(require_admin)])
        async def nothing() -> None: ...

        yield client


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [bearer(ANNA), bearer(BORIS), {"X-API-Key": ADMIN}, {"Authorization": f"bEARER  {ANNA}"}],
)
def test_a_known_key_may_call(guarded, headers):
    answer = guarded.post("/v1/segment", content=PHOTO.read_bytes(), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ({}, 'Bearer realm="segmentation"'),
        ({"Authorization": ANNA}, 'Bearer realm="segmentation"'),
        ({"Authorization": f"Basic {ANNA}"}, 'Bearer realm="segmentation"'),
        (bearer(make_key()), 'Bearer realm="segmentation", error="invalid_token"'),
        (bearer(ANNA[:-1]), 'Bearer realm="segmentation", error="invalid_token"'),
        ({"X-API-Key": ""}, 'Bearer realm="segmentation", error="invalid_token"'),
        ({"X-API-Key": LINES[0].split()[1]}, 'Bearer realm="segmentation", error="invalid_token"'),
    ],
)
@pytest.mark.parametrize("path", ["/v1/segment", "/v1/model", "/nothing", "/health/live/"])
def test_every_path_answers_401_without_a_known_key(guarded, path, headers, challenge):
    answer = guarded.post(path, headers=headers, content=b"x")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == challenge
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:segmentation:problem:unauthorized"
    assert ANNA not in answer.text


@pytest.mark.parametrize("name", ["key", "api_key", "access_token", "X-API-Key", "authorization"])
def test_a_key_in_the_query_string_is_ignored(guarded, name):
    assert guarded.get("/v1/model", params={name: ANNA}).status_code == 401


def test_probes_metrics_and_the_description_need_no_key(guarded):
    for path in ("/health/live", "/health/ready", "/metrics", "/", "/docs", "/openapi.json"):
        assert guarded.get(path).status_code == 200, path


def test_the_documentation_names_every_path_that_needs_no_key():
    text = (REPOSITORY / "docs" / "security.md").read_text()
    table = text.partition("| path | key |")[2].partition("\n\n")[0]
    assert {path for path in PUBLIC_PATHS if f"`{path}`" not in table} == set()


def test_the_401_comes_before_the_body(guarded):
    url = guarded.base_url
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


def test_an_admin_endpoint_needs_an_admins_key(guarded):
    path = "/v1/admin/nothing"
    assert guarded.get(path, headers=bearer(ADMIN)).status_code == 200
    refused = guarded.get(path, headers=bearer(ANNA))
    assert refused.status_code == 403
    assert refused.json()["type"] == "urn:segmentation:problem:forbidden"
    assert "anna" in refused.json()["detail"]
    assert guarded.get(path).status_code == 401


def test_without_a_keys_file_nobody_is_an_admin(settings):
    application = create_app(settings)

    @application.get("/v1/admin/nothing", dependencies=[Depends(require_admin)])
    async def nothing() -> None: ...

    async def ask():
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get("/v1/admin/nothing", headers=bearer(ADMIN))

    answer = asyncio.run(ask())
    assert answer.status_code == 403
    assert "SEG_KEYS_FILE" in answer.json()["remedy"]


def test_the_description_says_how_a_key_is_sent_where_one_is_needed(guarded, client):
    described = guarded.get("/openapi.json").json()
    schemes = described["components"]["securitySchemes"]
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
    assert schemes["header"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert described["security"] == [{"bearer": []}, {"header": []}]
    assert "security" not in described["paths"]["/v1/segment"]["post"]
    assert described["paths"]["/health/live"]["get"]["security"] == []
    assert "securitySchemes" not in client.get("/openapi.json").json()["components"]


def test_a_changed_file_takes_effect_with_the_next_request(settings, keys_file):
    with serving(settings.model_copy(update={"keys_file": keys_file})) as (client, _):
        assert client.get("/v1/model", headers=bearer(ANNA)).status_code == 200
        keys_file.write_text(LINES[1])
        assert client.get("/v1/model", headers=bearer(ANNA)).status_code == 401
        assert client.get("/v1/model", headers=bearer(BORIS)).status_code == 200
        keys_file.write_text("")
        assert client.get("/v1/model", headers=bearer(BORIS)).status_code == 401


def test_a_file_that_cannot_be_used_leaves_the_old_keys_and_is_reported_once(keys_file):
    keyring = Keyring(keys_file)
    with capture_logs() as logs:
        keys_file.write_text(f"anna {ANNA}\n")  # the key itself in place of its digest
        assert keyring.find(ANNA.encode()).name == "anna"
        keys_file.unlink()
        assert keyring.find(ANNA.encode()).name == "anna"
        assert keyring.find(ANNA.encode()).name == "anna"
    assert [entry["log_level"] for entry in logs] == ["error", "error"]
    assert "line 1" in logs[0]["error"]
    assert "No such file" in logs[1]["error"]
    assert ANNA not in str(logs)
    keys_file.write_text(LINES[1])
    assert keyring.find(ANNA.encode()) is None
    assert keyring.find(BORIS.encode()).name == "boris"


def test_a_change_that_keeps_the_files_time_and_size_is_seen_a_tick_later(keys_file, monkeypatch):
    changed_ns = os.stat(keys_file).st_ctime_ns
    monkeypatch.setattr("app.access.keys.time.time_ns", lambda: changed_ns + 1)
    keyring = Keyring(keys_file)
    keyring.text, keyring.keys = "as it was before the second change", ()
    assert keyring.find(ANNA.encode()) is None
    monkeypatch.setattr("app.access.keys.time.time_ns", lambda: changed_ns + CLOCK_TICK_NS)
    assert keyring.find(ANNA.encode()).name == "anna"


def test_every_digest_is_compared_even_after_a_match(keys_file, monkeypatch):
    compared = []

    def counted(one, other):
        compared.append(one)
        return one == other

    keyring = Keyring(keys_file)
    monkeypatch.setattr("app.access.keys.hmac.compare_digest", counted)
    for key in (ANNA, ADMIN, "unknown"):
        compared.clear()
        keyring.find(key.encode())
        assert len(compared) == 3


def test_a_name_may_have_two_keys_but_a_key_has_one_line(tmp_path):
    old, new = format_line("anna", ANNA), format_line("anna", BORIS)
    assert [key.name for key in parse_keys(f"{old}\n{new} # new", tmp_path)] == ["anna", "anna"]
    with pytest.raises(KeysError, match="line 2: the same key as that of anna"):
        parse_keys(f"{old}\n{format_line('boris', ANNA)}", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("anna", "line 1: expected NAME SHA-256-IN-HEX"),
        (f"# first\nanna {'0' * 63}", "line 2: expected NAME SHA-256-IN-HEX"),
        (f"an/na {'0' * 64}", "line 1: expected NAME SHA-256-IN-HEX"),
        (f"anna {'0' * 64} root", "line 1: the only role is 'admin'"),
        (f"anna {'0' * 64} admin admin", "line 1: the only role is 'admin'"),
    ],
)
def test_an_invalid_line_is_named(tmp_path, text, message):
    with pytest.raises(KeysError, match=message):
        parse_keys(text, tmp_path)


def test_a_keys_file_must_be_a_small_text_file(tmp_path):
    for content, message in ((b"\xff\xfe", "that is not text"), (b"#" * 2**21, "limit is 1048576")):
        path = tmp_path / "keys"
        path.write_bytes(content)
        with pytest.raises(KeysError, match=message):
            Keyring(path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(KeysError, match="found something else"):
            Keyring(path)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_keys_file_that_cannot_be_read_keeps_the_program_from_starting(weights_file, workers):
    with program(weights=weights_file, port=0, keys_file="/nothing", workers=workers) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    message = "error: cannot start: /nothing: cannot be read: No such file or directory"
    assert message in err
    assert "Traceback" not in err


def test_the_log_names_the_caller_and_never_the_key(weights_file, keys_file):
    with program(
        weights=weights_file, port=0, device="cpu", log_format="json", keys_file=keys_file
    ) as process:
        address = logged(process, "ready")["address"]
        httpx.get(f"{address}/v1/model", headers=bearer(ANNA))
        line = logged(process, "request")
        assert line["caller"] == "anna"
        assert ANNA not in str(line)
        httpx.get(f"{address}/v1/model", headers=bearer("guess"))
        line = logged(process, "request")
        assert "caller" not in line
        assert line["problem"] == "unauthorized"


@pytest.mark.parametrize("admin", [False, True])
def test_the_command_makes_a_line_for_the_file_and_shows_the_key_once(tmp_path, admin):
    run = subprocess.run(
        [sys.executable, "-m", "app.keys", "anna", *(["--admin"] if admin else [])],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    key = run.stderr.splitlines()[-1]
    assert key.startswith(KEY_PREFIX)
    assert len(key) == len(KEY_PREFIX) + 43  # 256 bits, six a character
    assert key not in run.stdout
    path = tmp_path / "keys"
    path.write_text(run.stdout)
    found = Keyring(path).find(key.encode())
    assert found.name == "anna"
    assert found.is_admin is admin


def test_the_command_refuses_a_name_that_the_file_could_not_hold():
    run = subprocess.run(
        [sys.executable, "-m", "app.keys", "two words"],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2
    assert "two words" in run.stderr
    assert run.stdout == ""
