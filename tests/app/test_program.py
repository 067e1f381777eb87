"""The program as people start it: `python -m app` in a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest
import torch

from app.settings import Settings, unknown_variables
from tests.conftest import PHOTO, REPOSITORY


@contextmanager
def program(*, module="app", **variables):
    """A process with these settings and no others."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SEG_")}
    environment |= {f"SEG_{name.upper()}": str(value) for name, value in variables.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", module], cwd=REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def logged(process, event):
    """The first JSON log line of that event."""
    for line in process.stderr:
        entry = json.loads(line)
        if entry["event"] == event:
            return entry
    raise AssertionError(f"the program ended without {event!r}")


def test_it_serves_logs_json_and_drains_on_sigterm(weights_file):
    with program(weights=weights_file, port=0, device="cpu", log_format="json") as process:
        ready = logged(process, "ready")
        url = ready["address"] + "/v1/segment"
        answer = httpx.post(
            url, content=PHOTO.read_bytes(), headers={"X-Request-ID": "my-request"}, timeout=60
        )
        assert answer.status_code == 200
        line = logged(process, "request")
        assert line["request_id"] == "my-request"
        assert line["status"] == 200
        assert line["path"] == "/v1/segment"
        assert line["milliseconds"] > 0

        # A request that has begun when SIGTERM comes is still answered. The server's "100 Continue"
        # proves that it has begun.
        host, port = re.fullmatch(r"http://(.*):(\d+)", ready["address"]).groups()
        body = PHOTO.read_bytes()
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                f"POST /v1/segment HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
                "Expect: 100-continue\r\n\r\n".encode()
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 100")
            process.send_signal(signal.SIGTERM)
            logged(process, "Shutting down")
            connection.sendall(body)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("variables", "status", "message"),
    [
        pytest.param(
            {"device": "cuda"},
            1,
            "error: cannot start: device 'cuda' was asked for, but PyTorch finds no CUDA GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without"),
        ),
        ({"weights": "/nothing"}, 1, "error: cannot start: /nothing: expected a weights file"),
        ({"port": "99999"}, 2, "error: SEG_PORT=99999: Input should be less than or equal"),
        ({"log_level": "loud"}, 2, "error: SEG_LOG_LEVEL=loud: Input should be"),
    ],
)
def test_what_keeps_it_from_starting_is_one_clear_line(weights_file, variables, status, message):
    with program(**{"weights": weights_file, "port": 0} | variables) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert err.strip().splitlines()[-1].startswith(message)
    assert "Traceback" not in err


def test_unknown_variables_are_reported():
    environ = {"SEG_PORT": "1", "SEG_MAX_PIXEL": "1", "PATH": "/"}
    assert unknown_variables(environ) == ["SEG_MAX_PIXEL"]


def test_settings_are_frozen_and_bounded():
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
    for name in ("max_pixels", "max_queue", "codec_threads", "max_body_bytes"):
        with pytest.raises(ValueError, match=name):
            Settings(**{name: 0})
