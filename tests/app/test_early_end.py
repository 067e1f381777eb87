"""The output and the exit status of a program that ends before it serves."""

import signal
import socket
import subprocess
import sys

import pytest

from app.arguments import name_option
from tests.app.gated import AT_THE_GATE, let_through, make_gates
from tests.app.test_program import program
from tests.conftest import REPOSITORY


def read_until(process, text):
    """What it has printed until a line with that text, and that line."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"it ended without {text!r}: {''.join(lines)}")


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_while_it_loads_ends_it_cleanly(weights_file, tmp_path, monkeypatch, workers):
    names = ["alone"] if workers == 1 else ["1", "2"]
    for name, value in make_gates(tmp_path, *names).items():
        monkeypatch.setenv(name, value)
    settings = {"workers": workers, "threads": 1, "port": 0, "device": "cpu"}
    with program(module="tests.app.gated", weights=weights_file, **settings) as process:
        printed = "".join(read_until(process, AT_THE_GATE) for _ in names)
        process.send_signal(signal.SIGTERM)
        printed += "".join(read_until(process, "Shutting down") for _ in names)
        for name in names:
            let_through(tmp_path, name)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Serving on" not in out
        assert "Traceback" not in printed + err
        assert "error" not in printed + err


def test_ctrl_c_while_it_imports_prints_nothing(weights_file):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "app"],
        cwd=REPOSITORY, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        read_until(process, "| structlog")  # the first of many
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("which", "as_option", "remedy"),
    [
        ("port", False, "SEG_PORT=8001"),
        ("port", True, "--port 8001"),
        ("operations_port", False, "SEG_OPERATIONS_PORT=9001"),
        ("operations_port", True, "--operations-port 9001"),
    ],
)
def test_a_port_that_is_taken_is_named_as_it_was_given(
    weights_file, workers, which, as_option, remedy
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"port": 0, "workers": workers} | ({} if as_option else {which: port})
        options = [name_option(which), str(port)] if as_option else []
        with program(*options, weights=weights_file, device="cpu", **settings) as process:
            _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last == (
        f"error: cannot listen on 127.0.0.1:{port}: Address already in use; stop the program that "
        f"listens there, or choose another port: {remedy}"
    )


def test_other_errors_are_not_blamed_on_the_port(weights_file):
    script = """
import tempfile

def fail(**_):
    raise OSError(28, "No space left on device")

tempfile.mkdtemp = fail
from app.__main__ import main
main()
"""
    environment = {"SEG_WORKERS": "2", "SEG_PORT": "0", "SEG_WEIGHTS": str(weights_file)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: cannot start: [Errno 28] No space left on device"
