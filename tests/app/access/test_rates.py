"""Rate limits over real HTTP. The tests set the clock."""

import re
import socket

import pytest

from app.access.counts import MAX_WINDOWS, Windows
from app.access.keys import format_line, make_key
from app.access.rates import identify_caller
from app.setting_syntax import parse_rates
from app.settings import Settings
from tests.app.access.test_keys import bearer
from tests.app.conftest import serving
from tests.app.test_program import program


@pytest.fixture
def clock(monkeypatch):
    """The clock of the windows, whose seconds a test sets."""

    class Clock:
        seconds = 1000.0

        def monotonic(self):
            return self.seconds

    clock = Clock()
    monkeypatch.setattr("app.access.counts.time", clock)
    return clock


def limited(settings, rate_limit, **more):
    return serving(settings.model_copy(update={"rate_limit": rate_limit, **more}))


def test_a_caller_above_the_rate_gets_429_until_the_window_ends(settings, clock):
    with limited(settings, "2/minute") as (client, _):
        first = client.get("/v1/model")
        assert first.status_code == 200
        assert first.headers["ratelimit-policy"] == '"2-per-60s";q=2;w=60'
        assert first.headers["ratelimit"] == '"2-per-60s";r=1;t=60'
        clock.seconds += 20.5
        assert client.get("/v1/model").headers["ratelimit"] == '"2-per-60s";r=0;t=40'
        refused = client.get("/v1/model")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "40"
        assert refused.headers["ratelimit"] == '"2-per-60s";r=0;t=40'
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"] == "urn:segmentation:problem:too-many-requests"
        assert "2 requests in 60 s" in refused.json()["detail"]
        clock.seconds += int(refused.headers["retry-after"])
        assert client.get("/v1/model").status_code == 200


def test_a_request_that_one_limit_refuses_uses_up_no_other(settings, clock):
    with limited(settings, "3/minute;1/second") as (client, _):
        assert client.get("/v1/model").status_code == 200
        for _ in range(5):
            refused = client.get("/v1/model")
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
        assert refused.headers["ratelimit"] == '"3-per-60s";r=2;t=60, "1-per-1s";r=0;t=1'
        for _ in range(2):
            clock.seconds += 1
            assert client.get("/v1/model").status_code == 200
        clock.seconds += 1
        assert client.get("/v1/model").headers["retry-after"] == "57"


def test_probes_metrics_and_the_description_are_not_limited(settings, clock):
    with limited(settings, "1/minute") as (client, _):
        client.get("/v1/model")
        for path in ("/health/live", "/health/ready", "/metrics", "/openapi.json"):
            for _ in range(3):
                answer = client.get(path)
                assert answer.status_code == 200
                assert "ratelimit" not in answer.headers
        assert 'seg_rejections_total{reason="too-many-requests"} 0.0' not in answer.text


def test_each_key_has_its_own_count_and_unknown_keys_count_for_none(settings, clock, tmp_path):
    anna, boris = make_key(), make_key()
    (tmp_path / "keys").write_text(f"{format_line('anna', anna)}\n{format_line('boris', boris)}")
    with limited(settings, "1/minute", keys_file=tmp_path / "keys") as (client, _):
        for _ in range(3):
            assert client.get("/v1/model").status_code == 401
        for key in (anna, boris):
            assert client.get("/v1/model", headers=bearer(key)).status_code == 200
            assert client.get("/v1/model", headers=bearer(key)).status_code == 429


def test_the_429_comes_before_the_body(settings, clock):
    with limited(settings, "1/minute") as (client, _):
        client.get("/v1/model")
        url = client.base_url
        with socket.create_connection((url.host, url.port), timeout=30) as connection:
            connection.sendall(
                b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
                b"Expect: 100-continue\r\n\r\n"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 429")


@pytest.mark.parametrize(
    ("client", "counted"),
    [
        (("10.0.0.7", 1234), "10.0.0.7"),
        (("2001:db8:1:2:3:4:5:6", 1234), "2001:db8:1:2::"),
        (("2001:db8:1:2::9", 1), "2001:db8:1:2::"),
        (("2001:db8:1:3::9", 1), "2001:db8:1:3::"),
        (("::ffff:10.0.0.7", 1), "10.0.0.7"),
        (("forged:\n", 0), "unknown"),
        (("x" * 60_000, 0), "x" * 64),
        (None, "unknown"),
    ],
)
def test_callers_are_counted_by_address_and_ipv6_callers_by_network(client, counted):
    assert identify_caller({"type": "http", "client": client}) == counted


def test_memory_is_bounded_and_ended_windows_are_removed(clock):
    windows = Windows()
    for number in range(2 * MAX_WINDOWS):
        windows.incr(f"address {number}", 60)
    assert len(windows.by_key) == MAX_WINDOWS
    assert windows.get("address 0") == 0
    assert windows.get(f"address {2 * MAX_WINDOWS - 1}") == 1
    clock.seconds += 61
    for number in range(MAX_WINDOWS):
        windows.incr("one", 60)
        windows.incr(f"new address {number}", 60)
        clock.seconds += 2
    assert len(windows.by_key) < 40, "those of the last minute"


def test_a_renewed_window_is_not_removed_before_older_ones(clock):
    windows = Windows()
    windows.incr("first", 60)
    clock.seconds += 61
    windows.incr("second", 60)
    windows.incr("first", 60)  # begins anew, so it ends last
    assert list(windows.by_key) == ["second", "first"]


@pytest.mark.parametrize(
    "text", ["fast", "10", "0/second", "10/fortnight", "1/second;", "-1/second"]
)
def test_an_invalid_rate_is_refused(text):
    with pytest.raises(ValueError, match="expected something like 10/second"):
        parse_rates(text)
    with pytest.raises(ValueError, match="rate_limit"):
        Settings(rate_limit=text)


def test_an_invalid_rate_ends_the_program_with_one_line():
    with program(port=0, rate_limit="fast") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert re.fullmatch("error: SEG_RATE_LIMIT=fast: Value error, expected .*", err.strip())
