"""Processes that benchmarks start: our server, the naive server, and workers that make calls.

Knows nothing of what is measured.
"""

import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import httpx

from app.settings import PREFIX
from benchmarks.connection import Address

REPOSITORY = Path(__file__).parent.parent
HOST = "127.0.0.1"
START_TIMEOUT_S = 600
STOP_TIMEOUT_S = 5

OUR_PATH = "/v1/segment"
NAIVE_PATH = "/predict"


@dataclass(frozen=True, slots=True)
class Server:
    """A server in its own process. Its log can be read when it has ended."""

    process: subprocess.Popen[bytes]
    address: Address
    seconds_to_ready: float
    log: IO[bytes]

    def ask_for_engine(self) -> str:
        """Return the description of the engine that our server uses."""
        engine: str = httpx.get(f"{self.address.url}/v1/model", timeout=60).json()["engine"]
        return engine

    def read_log(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()


@contextmanager
def start_our_server(**variables: object) -> Iterator[Server]:
    """Run `python -m app` for the block, which starts when the server is ready.

    `variables` override the SEG_ variables of the environment.
    """
    port = find_free_port()
    variables |= {"host": HOST, "port": port}
    settings = {PREFIX + name.upper(): str(value) for name, value in variables.items()}
    with _start_server(["app"], port, "/health/ready", **settings) as server:
        yield server


@contextmanager
def start_naive_server() -> Iterator[Server]:
    port = find_free_port()
    command = ["benchmarks.naive_server", "--port", str(port)]
    with _start_server(command, port, "/openapi.json") as server:
        yield server


def find_free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _start_server(
    command: Sequence[str], port: int, ready_path: str, **environment: str
) -> Iterator[Server]:
    """Run the module for the block, which starts when `ready_path` answers 200."""
    with tempfile.TemporaryFile() as log, httpx.Client(timeout=START_TIMEOUT_S) as client:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=REPOSITORY,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
        server = Server(process, Address(HOST, port), math.nan, log)
        try:
            _wait_until_ready(server, client, server.address.url + ready_path)
            yield replace(server, seconds_to_ready=time.perf_counter() - started)
        finally:
            _stop(process)


def _wait_until_ready(server: Server, client: httpx.Client, url: str) -> None:
    """Poll, because another process offers no event to wait for."""
    until = time.perf_counter() + START_TIMEOUT_S
    while server.process.poll() is None and time.perf_counter() < until:
        with suppress(httpx.TransportError):
            if client.get(url).status_code == HTTPStatus.OK:
                return
        time.sleep(0.01)
    sys.exit(f"the server is not ready:\n{server.read_log()[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:  # the naive server has a long queue after an overload
        process.kill()
        process.wait()


def find_errors(log: str) -> list[str]:
    """Return the lines of a JSON log that are errors or not JSON."""
    return [line[:500] for line in log.splitlines() if _read_level(line) in ("error", "critical")]


def _read_level(line: str) -> str:
    try:
        return str(json.loads(line)["level"])
    except (ValueError, KeyError, TypeError):
        return "critical"


@contextmanager
def start_worker() -> Iterator[Callable[..., Any]]:
    """Start a process that makes calls one after the other: `call(function, *arguments)`.

    It lives until the block ends, and keeps what a function caches.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_end_with_the_parent) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _end_with_the_parent() -> None:
    """End with the parent: a pool's process does not notice its end, and would wait forever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None, "this is a pool's process"
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
