"""The program as people start it: `python -m app` in a process of its own."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch

from app.access.keys import format_line, make_key
from app.settings import Settings, find_unknown_variables
from tests.conftest import PHOTO, REPOSITORY


@contextmanager
def program(*arguments, module="app", **variables):
    """Start the program with only these settings, in its own process group."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SEG_")}
    environment |= {f"SEG_{name.upper()}": str(value) for name, value in variables.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
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
            "error: cannot start: device 'cuda' is not available: PyTorch finds no CUDA GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without"),
        ),
        ({"weights": "/nothing"}, 1, "error: cannot start: /nothing: expected a weights file"),
        ({"port": "99999"}, 2, "error: SEG_PORT=99999: Input should be less than or equal"),
        ({"log_level": "loud"}, 2, "error: SEG_LOG_LEVEL=loud: Input should be"),
    ],
)
def test_a_failed_start_prints_one_clear_line(weights_file, variables, status, message):
    with program(**{"weights": weights_file, "port": 0} | variables) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == status
    *before, last = err.strip().splitlines()
    assert last.startswith(message)
    assert len(before) <= ("device" in variables), "the log says what it loads"
    assert "Traceback" not in err


def test_unknown_variables_are_reported():
    environ = {"SEG_PORT": "1", "SEG_MAX_PIXEL": "1", "PATH": "/"}
    assert find_unknown_variables(environ) == ["SEG_MAX_PIXEL"]


def test_settings_are_frozen_and_bounded():
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
    for name in ("max_pixels", "max_queue", "max_files", "max_body_bytes"):
        with pytest.raises(ValueError, match=name):
            Settings(**{name: 0})


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_nothing_and_leaves_nothing(weights_file, workers):
    body = PHOTO.read_bytes()
    head = (
        f"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        "Expect: 100-continue\r\n\r\n"
    )
    settings = {"workers": workers, "port": 0, "operations_port": 0, "log_format": "json"}
    with program(weights=weights_file, device="cpu", **settings) as process, ExitStack() as stack:
        for _ in range(workers):
            ready = logged(process, "ready")
        children = descendants(process.pid)
        assert len(children) == (0 if workers == 1 else workers)
        address = httpx.URL(ready["address"])
        begun = []
        for _ in range(40):
            connection = socket.create_connection((address.host, address.port), timeout=60)
            begun.append(stack.enter_context(connection))
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 100")
        probe = stack.enter_context(httpx.Client(base_url=ready["operations"]))
        assert probe.get("/health/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        for _ in range(workers):  # each closes the socket for itself
            logged(process, "Shutting down")
            assert probe.get("/health/ready").status_code == 503
            assert probe.get("/health/live").status_code == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port), timeout=60)
        for connection in begun:
            connection.sendall(body)
        for connection in begun:
            answer = b"".join(iter(partial(connection.recv, 65536), b""))
            assert answer.startswith(b"HTTP/1.1 200")
        assert process.wait(60) == 0
        assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]
        assert "Traceback" not in process.stderr.read()


def descendants(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_workers_do_not_outlive_their_supervisor(weights_file):
    settings = {"workers": 2, "port": 0, "log_format": "json"}
    with program(weights=weights_file, device="cpu", **settings) as process:
        for _ in range(2):
            logged(process, "ready")
        children = [os.pidfd_open(int(pid)) for pid in descendants(process.pid)]
        process.kill()
        for child in children:
            assert select.select([child], [], [], 60)[0], "it has ended"
            os.close(child)


def test_several_workers_count_together_and_reload_together(weights_file, tmp_path):
    current = tmp_path / "current"
    current.write_bytes(weights_file.read_bytes())
    settings = {"workers": 2, "port": 0, "log_format": "json"}
    with program(weights=current, device="cpu", **settings) as process:
        for _ in range(2):
            address = logged(process, "ready")["address"]
        for number in range(1, 100):
            answer = httpx.post(f"{address}/v1/segment", content=PHOTO.read_bytes(), timeout=60)
            assert answer.status_code == 200
            text = httpx.get(f"{address}/metrics").text
            counted = re.search(
                r'seg_requests_total\{route="/v1/segment",status="200"\} (.*)', text
            )
            assert float(counted[1]) == number, "whichever worker is asked"
            files = Path(metrics_folder(process.pid)).glob("counter_*.db")
            served = [file for file in files if b"/v1/segment" in file.read_bytes()]
            if len(served) == 2:
                break
        assert len(served) == 2, "both have served"
        for name in ("seg_in_flight", "seg_queue_depth", "seg_queue_oldest_age_seconds"):
            assert f"\n{name} 0" in text
        process.send_signal(signal.SIGHUP)
        for _ in range(2):
            logged(process, "reloaded")
        text = httpx.get(f"{address}/metrics").text
        assert 'seg_reloads_total{outcome="swapped"} 2.0' in text


def test_a_reload_over_http_reaches_every_worker(weights_file, tmp_path):
    current, keys, key = tmp_path / "current", tmp_path / "keys.txt", make_key()
    current.write_bytes(weights_file.read_bytes())
    keys.write_text(format_line("operator", key, admin=True))
    settings = {"workers": 2, "port": 0, "log_format": "json", "keys_file": keys}
    with program(weights=current, device="cpu", **settings) as process:
        for _ in range(2):
            address = logged(process, "ready")["address"]
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{address}/v1/admin/reload", headers=headers, timeout=60)
        assert answer.status_code == 200
        for _ in range(1 + 2):  # who was asked tells both
            logged(process, "reloaded")


def metrics_folder(pid):
    """The folder of the metrics of that supervisor's workers."""
    (child, *_) = descendants(pid)
    with open(f"/proc/{child}/environ", "rb") as file:
        environ = dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)
    return environ[b"PROMETHEUS_MULTIPROC_DIR"].decode()


def test_a_signal_during_a_locked_section_does_not_deadlock(weights_file):
    """A signal handler that runs while its thread holds a metric's lock would deadlock."""
    script = f"""
import os, signal, threading
from app.process.server import Server, serve
from app.settings import Settings

server = Server(Settings(port=0, weights={str(weights_file)!r}, device="cpu"))
lock, drain = threading.Lock(), server.service.drain

def locked_drain():
    with lock:
        drain()

def terminate():
    with lock:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(10_000))

server.service.drain = locked_drain
def terminate_soon(_):
    server.event_loop.call_soon_threadsafe(terminate)
server.service.started.add_done_callback(terminate_soon)
raise SystemExit(serve(server))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=60, check=False)
    assert ended.returncode == 0
