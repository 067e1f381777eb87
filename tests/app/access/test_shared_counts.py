"""One limit for all servers, counted in a real Redis, also when Redis is down."""

import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from app.main import create_app
from app.process.startup import list_invalid
from app.settings import Settings
from tests.app.access.test_rates import limited
from tests.app.conftest import metric
from tests.app.test_program import logged, program
from tests.conftest import REPOSITORY

REDIS = shutil.which("redis-server")

pytest.importorskip("redis", reason="needs the extra redis")


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Long timeouts, for busy machines. Tests of a hanging Redis shorten them."""
    monkeypatch.setattr("app.access.shared_counts.TIMEOUT_S", 60)
    monkeypatch.setattr("app.access.shared_counts.PAUSE_S", 0)


def find_free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def running_redis(port):
    if REDIS is None:
        pytest.skip("needs redis-server (Debian's package redis-server)")
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([REDIS, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stdout.readline, "")
        assert any("Ready to accept connections" in line for line in lines)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def redis():
    """The URI of an empty Redis."""
    with running_redis(find_free_port()) as uri:
        yield uri


def test_two_servers_have_one_limit_for_a_caller(settings, redis):
    with (
        limited(settings, "4/minute", rate_storage=redis) as (one, _),
        limited(settings, "4/minute", rate_storage=redis) as (other, _),
    ):
        answers = [client.get("/v1/model") for client in (one, other, one, other)]
        assert [answer.status_code for answer in answers] == [200] * 4
        left = [re.search(r"r=(\d);t=(\d+)$", a.headers["ratelimit"]).groups() for a in answers]
        assert [count for count, _ in left] == ["3", "2", "1", "0"]
        assert all(0 < int(seconds) <= 60 for _, seconds in left)
        for client in (one, other):
            refused = client.get("/v1/model")
            assert refused.status_code == 429
            assert 0 < int(refused.headers["retry-after"]) <= 60
        assert metric(one.get("/metrics").text, "seg_rate_fallbacks_total") == 0


def test_a_limit_holds_for_requests_that_come_to_two_servers_at_once(settings, redis):
    with (
        limited(settings, "7/2minute", rate_storage=redis) as (one, _),
        limited(settings, "7/2minute", rate_storage=redis) as (other, _),
        ThreadPoolExecutor(20) as threads,
    ):
        answers = threads.map(lambda client: client.get("/v1/model"), [one, other] * 10)
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [429] * 13


def test_a_request_that_one_limit_refuses_uses_up_no_other(settings, redis):
    with limited(settings, "5/3minute;2/3hour", rate_storage=redis) as (client, _):
        answers = [client.get("/v1/model") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert re.match(r'"5-per-180s";r=3;', answers[-1].headers["ratelimit"])
        assert int(answers[-1].headers["retry-after"]) > 3600


def test_the_workers_of_a_program_have_one_limit(weights_file, redis):
    with program(
        weights=weights_file, port=0, device="cpu", workers=2, log_format="json",
        rate_limit="5/4minute", rate_storage=redis,
    ) as process:  # fmt: skip
        address = logged(process, "ready")["address"]
        logged(process, "ready")
        statuses = []
        for _ in range(8):  # a connection each, so that both workers may get some
            answer = httpx.get(f"{address}/v1/model", timeout=300)
            statuses.append(answer.status_code)
        assert statuses == [200] * 5 + [429] * 3


def test_without_redis_a_server_counts_alone_until_it_is_back(settings):
    port = find_free_port()
    storage = f"redis://:secret@127.0.0.1:{port}"
    with (
        limited(settings, "3/minute", rate_storage=storage) as (client, _),
        capture_logs() as logs,
    ):
        answers = [client.get("/v1/model") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert metric(client.get("/metrics").text, "seg_rate_fallbacks_total") == 4
        (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
        assert entry["event"] == "rate storage unreachable, this process counts alone"
        assert str(port) in entry["error"]
        with running_redis(port):
            answers = [client.get("/v1/model") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert "rate storage reachable again" in [entry["event"] for entry in logs]
        assert client.get("/v1/model").status_code == 429, "its own count goes on"
        assert metric(client.get("/metrics").text, "seg_rate_fallbacks_total") == 5
    assert "secret" not in str(logs)


def test_a_redis_that_was_restarted_is_used_at_once(settings):
    port = find_free_port()
    with limited(settings, "1/minute", rate_storage=f"redis://127.0.0.1:{port}") as (client, _):
        for _ in range(2):
            with running_redis(port):
                assert client.get("/v1/model").status_code == 200
                assert client.get("/v1/model").status_code == 429
        assert metric(client.get("/metrics").text, "seg_rate_fallbacks_total") == 0


@pytest.fixture
def hanging():
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_a_redis_that_hangs_delays_one_request_and_no_other(settings, hanging, monkeypatch):
    monkeypatch.setattr("app.access.shared_counts.TIMEOUT_S", 0.2)
    monkeypatch.setattr("app.access.shared_counts.PAUSE_S", 3600)
    storage = f"redis://127.0.0.1:{hanging.getsockname()[1]}"
    with limited(settings, "9/minute", rate_storage=storage) as (client, _):
        for left in range(8, 3, -1):
            answer = client.get("/v1/model")
            assert answer.status_code == 200
            assert f"r={left};" in answer.headers["ratelimit"]
        assert metric(client.get("/metrics").text, "seg_rate_fallbacks_total") == 5
    with hanging.accept()[0]:
        hanging.setblocking(False)
        with pytest.raises(BlockingIOError):
            hanging.accept()


def test_a_request_that_waits_for_redis_delays_no_other(settings, hanging):
    storage = f"redis://127.0.0.1:{hanging.getsockname()[1]}"
    with (
        ThreadPoolExecutor(1) as thread,
        limited(settings, "9/minute", rate_storage=storage) as (client, _),
    ):
        waiting = thread.submit(client.get, "/v1/model")
        with hanging.accept()[0] as connection:
            assert connection.recv(1), "it has asked"
            assert client.get("/health/live").status_code == 200
            assert not waiting.done()
        hanging.close()
        assert waiting.result(300).status_code == 200


def test_without_a_storage_nothing_of_redis_is_loaded():
    code = (
        "import sys\n"
        "from app.main import create_app\n"
        "from app.settings import Settings\n"
        "create_app(Settings(rate_limit='9/minute'))\n"
        "print('redis' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_storage_without_its_package_is_one_clear_line(weights_file):
    code = (
        "import runpy, sys\n"
        "sys.modules['redis'] = None\n"
        "runpy.run_module('app', run_name='__main__')"
    )
    environment = {"SEG_RATE_LIMIT": "9/minute", "SEG_RATE_STORAGE": "redis://127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True,
        env=environment | {"SEG_WEIGHTS": str(weights_file), "SEG_PORT": "0"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: cannot start: SEG_RATE_STORAGE needs the package redis: pip install redis"
    )


@pytest.mark.parametrize(
    "uri",
    [
        "redis://host",
        "redis://:pass@host:6379/1",
        "rediss://me:pass@host/?health_check_interval=9",
        "redis://[::1]:1",
    ],
)
def test_a_storage_is_a_redis_url(uri):
    settings = Settings(rate_storage=uri, rate_limit="9/minute")
    assert settings.rate_storage == uri
    create_app(settings)


@pytest.mark.parametrize("uri", ["memory://", "redis://", "host:6379", "redis://host:port"])
def test_an_invalid_storage_is_refused(uri):
    with pytest.raises(ValueError, match="expected something like redis://host:6379/0"):
        Settings(rate_storage=uri)


@pytest.mark.parametrize(
    "uri",
    [
        "redis://me:secret@host:port", "redis:/:secret@host", "me:secret@host:6379",
        "redis://host:port?password=secret", "redis://:secret", "redis://:sec\nret@host",
    ],
)  # fmt: skip
def test_an_invalid_storage_is_reported_without_its_password(uri):
    with pytest.raises(ValidationError) as caught:
        Settings(rate_storage=uri)
    ((given, _),) = list_invalid(caught.value)
    assert given == "SEG_RATE_STORAGE=***"
    ((given, _),) = list_invalid(caught.value, options={"SEG_RATE_STORAGE"})
    assert given == "--rate-storage ***"


def test_a_storage_is_not_in_the_text_of_the_settings():
    assert "secret" not in repr(Settings(rate_storage="redis://:secret@host:6379/0"))


@pytest.mark.parametrize("query", ["socket_timeout=soon", "nonsense=1"])
def test_a_storage_with_a_wrong_option_ends_the_program_in_one_line(weights_file, query):
    uri = f"redis://:secret@127.0.0.1:1/0?{query}"
    with program(port=0, weights=weights_file, rate_limit="9/second", rate_storage=uri) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: cannot start: the URL of SEG_RATE_STORAGE has a wrong part: ")
    assert query.split("=")[0] in last
    assert "secret" not in err
    assert "Traceback" not in err
