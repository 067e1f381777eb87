"""The load generator loses no request and counts latency from when a request was due."""

import asyncio
import itertools
import math
from contextlib import asynccontextmanager
from functools import partial

import pytest

from benchmarks.connection import Address, get_request, send_once, upload_request
from benchmarks.load import LoadGenerator, draw_arrivals
from benchmarks.process import find_free_port
from benchmarks.results import NO_RESPONSE, Load, Outcome, Result, count_outcomes
from tests.benchmarks.tiny_server import TinyServer

GET = get_request("/")


def run_closed_loop(address, requests=(GET,), *, timeout_s=120, **options):
    return LoadGenerator(address, timeout_s=timeout_s).run_closed_loop(requests, **options)


def run_open_loop(address, *, rate, seconds):
    arrivals = draw_arrivals(rate, seconds, seed=None)
    return LoadGenerator(address).run_open_loop(arrivals, itertools.repeat(GET))


def run_load(server, loop, **options):
    return server.run(partial(loop, **options))


def test_a_closed_loop_counts_every_request_with_its_status_and_outcome():
    server = TinyServer([(200, b"four"), (200, b""), (503, b"no"), (404, b"")])
    load = run_load(server, run_closed_loop, callers=3, count=40)
    assert load.statuses == {200: 20, 503: 10, 404: 10}
    row = count_outcomes(load.results)[-1]
    outcomes = (Outcome.MASK, Outcome.OVERLOADED, Outcome.REFUSED, Outcome.LOST)
    assert [row[outcome] for outcome in outcomes] == [20, 10, 10, 0]
    assert load.share(503) == pytest.approx(1 / 4)
    assert load.throughput >= 20 / load.wall_s
    assert load.client_cpu_s > 0


def test_a_closed_loop_keeps_its_connections():
    server = TinyServer([(200, b"")])
    run_load(server, run_closed_loop, callers=4, count=40)
    assert server.connections == 4


def test_a_closed_loop_ends_after_its_seconds():
    load = run_load(TinyServer([(200, b"")]), run_closed_loop, callers=2, seconds=0.05)
    assert load.results
    assert load.wall_s >= 0.05


def test_requests_are_sent_in_turns_and_whole():
    server = TinyServer([(200, b"")])
    requests = [upload_request("/", bytes([number]) * 200_000) for number in range(2)]
    run_load(server, run_closed_loop, requests=requests, callers=1, count=4)
    assert server.requests == [request.body for request in requests] * 2


def test_a_response_has_its_status_headers_and_body():
    response = TinyServer([(404, b"four")]).run(lambda address: send_once(address, GET))
    assert (response.status, response.headers["content-length"]) == (404, "4")
    assert response.body == b"four"


@pytest.mark.parametrize(
    ("loop", "options"),
    [
        (run_closed_loop, {"callers": 2, "count": 5}),
        (run_open_loop, {"rate": 1000, "seconds": 0.0055}),
    ],
)
def test_refused_connections_are_recorded(loop, options):
    load = asyncio.run(loop(Address("127.0.0.1", find_free_port()), **options))
    assert load.statuses == {NO_RESPONSE: 5}
    assert load.throughput == 0
    assert math.isnan(load.latency_ms(0.5))


def test_a_broken_connection_is_recorded_and_opened_again():
    server = TinyServer([(200, b""), None])
    load = run_load(server, run_closed_loop, callers=1, count=6)
    assert load.statuses == {200: 3, NO_RESPONSE: 3}
    assert server.connections == 3


def test_a_response_that_does_not_come_in_time_is_recorded():
    async def run():
        async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as silent:
            address = Address(*silent.sockets[0].getsockname())
            return await run_closed_loop(address, [GET], callers=1, count=2, timeout_s=0.01)

    assert asyncio.run(run()).statuses == {NO_RESPONSE: 2}


def test_arrivals_wait_for_no_response_and_latency_counts_from_the_due_time():
    everybody = 5

    class Patient(TinyServer):
        """Answers when all requests have arrived."""

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

    load = run_load(Patient([(200, b"")]), run_open_loop, rate=100, seconds=0.055)
    assert load.statuses == {200: everybody}
    # They were due every 10 ms, so the first one waited 40 ms for the fifth.
    assert max(result.seconds for result in load.results) >= 0.04


def test_arrivals_are_even_or_poisson_by_their_seed():
    assert list(draw_arrivals(4, 1.1, None)) == [0.25, 0.5, 0.75, 1.0]
    poisson = list(draw_arrivals(100, 10, 1))
    assert poisson == list(draw_arrivals(100, 10, 1)) != list(draw_arrivals(100, 10, 2))
    assert len(poisson) == pytest.approx(1000, rel=0.1)


def test_percentiles_are_latencies_that_occurred():
    load = Load([Result(200, number / 1000, 1) for number in range(100, 0, -1)], 10, 0)
    quantiles = (0, 0.5, 0.9, 0.99, 1)
    assert [load.latency_ms(q) for q in quantiles] == pytest.approx([1, 50, 90, 99, 100])
    load = Load([Result(200, 0.001, 1), Result(200, 0.003, 2), Result(503, 9, 10)], 10, 0)
    assert load.throughput == 1
    assert load.latency_ms(0.99) == 3
    assert load.latency_ms(0.99, status=503) == 9000


def test_the_stages_are_those_of_the_server_timing_header():
    load = run_load(TinyServer([(200, b"")]), run_closed_loop, callers=1, count=1)
    assert load.results[0].read_stages_ms() == {"decode": 1.5, "inference": 20}
    assert Result(200, 1, 1).read_stages_ms() == {}
