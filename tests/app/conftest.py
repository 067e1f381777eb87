"""A real server in a thread, on a free port, which tests call over HTTP."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from app.process.server import Server
from app.settings import Settings
from benchmarks.gauges import HELD


@contextmanager
def serving(settings: Settings, *, wait: bool = True) -> Iterator[tuple[httpx.Client, Server]]:
    """A client of a server with these settings, ready unless `wait` is False."""
    server = Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        if wait:
            server.service.started.result(300)
        with httpx.Client(base_url=server.address, timeout=300) as client:
            yield client, server
    finally:
        server.should_exit = True
        thread.join(300)
        assert not thread.is_alive()
    assert held_by(server) == {}, "after the end"


def held_by(server: Server) -> dict[str, float]:
    """The gauges of `HELD` that are not at zero."""
    registry = server.service.metrics.registry
    values = {name: registry.get_sample_value(name) for name in HELD}
    return {name: value for name, value in values.items() if value}


def wait_for_rest(server: Server) -> None:
    """Wait until the server holds nothing. Fails after a minute, because something has leaked."""
    last = time.monotonic() + 60
    with httpx.Client(base_url=server.operations_address, timeout=300) as client:
        while held := held_by(server):
            assert time.monotonic() < last, held
            client.get("/health/live")


def connected(server: Server) -> socket.socket:
    """A bare connection, because client libraries do not misbehave."""
    url = httpx.URL(server.address)
    return socket.create_connection((url.host, url.port), timeout=300)


def metric(text: str, name: str) -> float:
    """The value of that metric, with labels in its name, in Prometheus' text format."""
    found = re.search(rf"^{re.escape(name)} (.*)$", text, re.M)
    assert found, name
    return float(found[1])


@pytest.fixture(scope="session")
def settings(weights_file) -> Settings:
    return Settings(
        port=0,
        weights=weights_file,
        device="cpu",
        max_pixels=4_000_000,
        max_body_bytes=8 * 2**20,
        max_side=1024,
        # The defaults, 30 and 10, are too short for one core that many other processes use.
        deadline_s=300,
        stuck_after_s=120,
    )


@pytest.fixture(scope="session")
def server(settings) -> Iterator[Server]:
    with serving(settings) as (_, running):
        yield running


@pytest.fixture(autouse=True)
def everything_is_given_back(request) -> Iterator[None]:
    """Check after each test that uses the shared server."""
    yield
    if "server" in request.fixturenames:
        wait_for_rest(request.getfixturevalue("server"))


@pytest.fixture(scope="session")
def client(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=300) as client:
        yield client
