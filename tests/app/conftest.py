"""A real server in a thread, on a free port: what the tests ask is what users ask."""

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
    """Until nothing is held any more. Fails after a minute, for then something has leaked."""
    last = time.monotonic() + 60
    with httpx.Client(base_url=server.operations_address, timeout=300) as client:
        while held := held_by(server):
            assert time.monotonic() < last, held
            client.get("/health/live")


def connected(server: Server) -> socket.socket:
    """A bare connection: clients that misbehave are not made with a client library."""
    url = httpx.URL(server.address)
    return socket.create_connection((url.host, url.port), timeout=300)


def metric(text: str, name: str) -> float:
    """The value of that name, labels included, in Prometheus' text format."""
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
        # Of the defaults, 30 and 10, neither holds on one core beside many busy neighbours.
        deadline_s=300,
        stuck_after_s=120,
    )


@pytest.fixture(scope="session")
def server(settings) -> Iterator[Server]:
    with serving(settings) as (_, running):
        yield running


@pytest.fixture(autouse=True)
def everything_is_given_back(request) -> Iterator[None]:
    """After each test that asks the shared server."""
    yield
    if "server" in request.fixturenames:
        wait_for_rest(request.getfixturevalue("server"))


@pytest.fixture(scope="session")
def client(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.address, timeout=300) as client:
        yield client
