"""A real server in a thread, on a free port, which tests call over HTTP."""

import functools
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client import Counter, Gauge

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


def read_metric(server: Server, name: str, **labels: str) -> float:
    """The value of a gauge or a counter of a server in this process; 0 if it has none yet."""
    return server.service.metrics.registry.get_sample_value(name, labels) or 0


class Changes:
    """The changes of all gauges and counters of this process, which tests wait for."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the changes of the block."""
        with pytest.MonkeyPatch.context() as patch:
            for kind, name in ((Gauge, "set"), (Gauge, "inc"), (Gauge, "dec"), (Counter, "inc")):
                patch.setattr(kind, name, self._count_after(getattr(kind, name)))
            yield

    def _count_after(self, change: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(change)
        def change_and_count(*arguments: object) -> None:
            change(*arguments)
            with self._condition:
                self._count += 1
                self._condition.notify_all()

        return change_and_count

    def wait_until(self, is_so: Callable[[], bool], within_s: float = 60) -> None:
        """Ask after each change; fail if there is none for so long."""
        while True:
            with self._condition:
                seen = self._count
            if is_so():
                return
            with self._condition:
                assert self._condition.wait_for(lambda: self._count != seen, within_s)  # noqa: B023


changes = Changes()


@pytest.fixture(scope="session", autouse=True)
def changes_are_counted() -> Iterator[None]:
    with changes.counted():
        yield


def wait_for_metric(server: Server, name: str, value: float, **labels: str) -> None:
    """Wait until a metric of a server in this process has this value."""
    changes.wait_until(lambda: read_metric(server, name, **labels) == value)


def wait_for_rest(server: Server) -> None:
    """Wait until the server holds nothing. Fails after a minute, because something has leaked."""
    changes.wait_until(lambda: not held_by(server))


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
