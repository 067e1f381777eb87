"""The load generator loses no request, and both servers compute the same masks."""

import asyncio
import math
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import (
    NO_ANSWER,
    Address,
    Load,
    Sample,
    arrivals,
    closed_loop,
    get_request,
    open_loop,
    percentile,
    upload_request,
)
from benchmarks.photos import SOURCE
from benchmarks.server import (
    MIN_EQUAL,
    NAIVE_PATH,
    OUR_PATH,
    Candidate,
    equal_shares,
    free_port,
    naive_server,
    our_server,
)

GET = get_request("/")


class TinyServer:
    """Gives each request what `answers` says, in turns; None hangs up instead of an answer."""

    def __init__(self, answers):
        self.answers = answers
        self.connections = 0
        self.requests = []

    @asynccontextmanager
    async def serving(self):
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield Address(*server.sockets[0].getsockname())

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while await self._answer(reader, writer):
                pass
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].split("\r\n")[0] or 0)
        self.requests.append(await reader.readexactly(length))
        answer = self.answers[(len(self.requests) - 1) % len(self.answers)]
        if answer is None:
            return False
        status, body = answer
        writer.write(
            f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n"
            "Server-Timing: decode;dur=1.50, inference;dur=20.00\r\n\r\n".encode()
            + body
        )
        return True


def loaded(server, loop, requests=(GET,), **options):
    async def run():
        async with server.serving() as address:
            return await loop(address, requests, **options)

    return asyncio.run(run())


def test_a_closed_loop_counts_every_request_with_its_status_and_bytes():
    server = TinyServer([(200, b"four"), (200, b""), (503, b"no")])
    load = loaded(server, closed_loop, callers=3, count=30)
    assert load.statuses == {200: 20, 503: 10}
    assert sorted({(s.status, s.body_bytes) for s in load.samples}) == [
        (200, 0),
        (200, 4),
        (503, 2),
    ]
    assert load.share(503) == pytest.approx(1 / 3)
    assert load.throughput >= 20 / load.wall_s
    assert load.client_cpu_s > 0


def test_a_closed_loop_keeps_its_connections():
    server = TinyServer([(200, b"")])
    loaded(server, closed_loop, callers=4, count=40)
    assert server.connections == 4


def test_a_closed_loop_ends_after_its_seconds():
    load = loaded(TinyServer([(200, b"")]), closed_loop, callers=2, seconds=0.05)
    assert load.samples
    assert load.wall_s >= 0.05


def test_requests_are_sent_in_turns_and_whole():
    server = TinyServer([(200, b"")])
    requests = [upload_request("/", bytes([number]) * 200_000) for number in range(2)]
    loaded(server, closed_loop, requests, callers=1, count=4)
    bodies = [request.partition(b"\r\n\r\n")[2] for request in requests]
    assert server.requests == bodies * 2


@pytest.mark.parametrize(
    ("loop", "options"),
    [
        (closed_loop, {"callers": 2, "count": 5}),
        (open_loop, {"rate": 1000, "seconds": 0.0055, "seed": None}),
    ],
)
def test_refused_connections_are_recorded(loop, options):
    load = asyncio.run(loop(Address("127.0.0.1", free_port()), [GET], **options))
    assert load.statuses == {NO_ANSWER: 5}
    assert load.throughput == 0
    assert math.isnan(load.latency_ms(0.5))


def test_a_broken_connection_is_recorded_and_opened_again():
    server = TinyServer([(200, b""), None])
    load = loaded(server, closed_loop, callers=1, count=6)
    assert load.statuses == {200: 3, NO_ANSWER: 3}
    assert server.connections == 3


def test_an_answer_that_does_not_come_in_time_is_recorded():
    async def run():
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as silent:
            address = Address(*silent.sockets[0].getsockname())
            return await closed_loop(address, [GET], callers=1, count=2, timeout_s=0.01)

    load = asyncio.run(run())
    assert load.statuses == {NO_ANSWER: 2}


def test_arrivals_wait_for_no_answer_and_their_latency_counts_from_when_they_were_due():
    everybody = 5

    class Patient(TinyServer):
        """Answers nobody until everybody has arrived."""

        async def _answer(self, reader, writer):
            if self.connections == everybody:
                self.all_here.set()
            await self.all_here.wait()
            return await super()._answer(reader, writer)

        @asynccontextmanager
        async def serving(self):
            self.all_here = asyncio.Event()
            async with super().serving() as address:
                yield address

    load = loaded(Patient([(200, b"")]), open_loop, rate=100, seconds=0.055, seed=None)
    assert load.statuses == {200: everybody}
    # They were due every 10 ms, so the first one waited 40 ms for the fifth.
    assert max(sample.seconds for sample in load.samples) >= 0.04


def test_arrivals_are_even_or_poisson_by_their_seed():
    assert list(arrivals(4, 1.1, None)) == [0.25, 0.5, 0.75, 1.0]
    poisson = list(arrivals(100, 10, 1))
    assert poisson == list(arrivals(100, 10, 1)) != list(arrivals(100, 10, 2))
    assert len(poisson) == pytest.approx(1000, rel=0.1)


def test_percentiles_are_values_that_occurred():
    values = list(range(100, 0, -1))
    assert [percentile(values, q) for q in (0, 0.5, 0.9, 0.99, 1)] == [1, 50, 90, 99, 100]
    assert percentile([7], 0.99) == 7
    load = Load([Sample(200, 0.001, 1), Sample(200, 0.003, 2), Sample(503, 9, 10)], 10, 0)
    assert load.throughput == 1
    assert load.latency_ms(0.99) == 3
    assert load.latency_ms(0.99, status=503) == 9000


def test_the_stages_are_those_of_the_server_timing_header():
    load = loaded(TinyServer([(200, b"")]), closed_loop, callers=1, count=1)
    assert load.samples[0].stages_ms() == {"decode": 1.5, "inference": 20}
    assert Sample(200, 1, 1).stages_ms() == {}


def test_both_servers_compute_the_same_mask():
    photo = SOURCE.read_bytes()
    with our_server() as ours, naive_server() as naive:
        (equal,) = equal_shares(
            Candidate(ours.address, [upload_request(OUR_PATH, photo)]),
            Candidate(naive.address, [upload_request(NAIVE_PATH, photo)]),
        )
    assert equal >= MIN_EQUAL
