"""The outcomes of callers that misbehave, with a scripted server."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from benchmarks.callers import Leaving, keep_sending_slowly, leave, send_slowly
from benchmarks.connection import Connection, Response, post_request
from benchmarks.load import LoadGenerator
from benchmarks.requests import make_judge
from benchmarks.results import FAILURES, Outcome, count_outcomes
from tests.benchmarks.tiny_server import TinyServer

REQUEST = post_request("a request", "/", content=b"x" * 100)
JUDGE = make_judge({REQUEST: {"": Response(200, {}, b"mask")}})


def run_caller(server, call):
    """Run `call` against the server. Returns the outcomes and the load generator."""

    async def ask(address):
        load = LoadGenerator(address, judge=JUDGE)
        await call(load)
        return load

    load = server.run(ask)
    return Counter(result.outcome for result in load.results), load


async def ask_once(load):
    await load.ask("test", REQUEST, Connection(load.address), due=0)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ((200, b"mask"), Outcome.MASK),
        ((200, b"musk"), Outcome.WRONG),
        ((422, b"mask"), Outcome.WRONG),
        ((500, b"mask"), Outcome.WRONG),
        ((408, b"too slow"), Outcome.WRONG),
        ((503, b"later"), Outcome.OVERLOADED),
        (None, Outcome.LOST),
    ],
)
def test_a_response_is_compared_with_the_one_that_its_request_got_alone(answer, outcome):
    outcomes, load = run_caller(TinyServer([answer]), ask_once)
    assert outcomes == {outcome: 1}
    assert bool(load.complaints) == (outcome in FAILURES)


def test_a_mask_of_other_weights_than_the_response_names_is_wrong():
    judge = make_judge({REQUEST: {d: Response(200, {}, b"mask " + d.encode()) for d in "ab"}})

    def ask(digest, body):
        return judge(REQUEST, Response(200, {"x-weights-digest": digest}, body))

    assert ask("a", b"mask a") is ask("b", b"mask b") is Outcome.MASK
    assert ask("a", b"mask b") is ask("c", b"mask a") is Outcome.WRONG


def test_a_refusal_that_a_request_got_alone_is_right():
    judge = make_judge({REQUEST: {"": Response(422, {}, b"")}})
    assert judge(REQUEST, Response(422, {}, b"")) is Outcome.REFUSED
    assert judge(REQUEST, Response(413, {}, b"")) is Outcome.WRONG


send_once_slowly = partial(send_slowly, request=REQUEST, pause_s=0.001)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [((200, b"mask"), Outcome.MASK), ((408, b"too slow"), Outcome.REFUSED)],
)
def test_a_slow_caller_sends_the_whole_request_and_gets_a_response(answer, outcome):
    server = TinyServer([answer])
    outcomes, _ = run_caller(server, send_once_slowly)
    assert outcomes == {outcome: 1}
    assert server.requests == [REQUEST.body]


def test_a_slow_caller_that_is_disconnected_while_it_sends_is_cut_off():
    class Impatient(TinyServer):
        async def _answer(self, reader, writer):
            await reader.readexactly(1)
            return False

    outcomes, _ = run_caller(Impatient([]), send_once_slowly)
    assert outcomes == {Outcome.CUT_OFF: 1}


def test_a_slow_caller_without_a_response_counts_as_lost():
    class Ending(TinyServer):
        """Closes the connection after a whole request, and reports the next connection."""

        async def _serve(self, reader, writer):
            if self.connections == 1:
                self.second.set()
            await super()._serve(reader, writer)

    async def send(load):
        server.second = asyncio.Event()
        sending = asyncio.create_task(keep_sending_slowly(load, [REQUEST], seconds=0.01))
        await server.second.wait()
        sending.cancel()

    server = Ending([None])
    outcomes, _ = run_caller(server, send)
    assert outcomes == {Outcome.LOST: 1}


def test_leaving_in_the_answer_waits_for_one():
    call = partial(leave, request=REQUEST, leaving=Leaving.ANSWERED)
    server = TinyServer([(200, b"mask")])
    run_caller(server, call)
    assert server.requests == [REQUEST.body]
    with pytest.raises(EOFError):
        run_caller(TinyServer([None]), call)


def test_the_outcomes_add_up():
    load = LoadGenerator(address=None)
    load.record("a", REQUEST, Outcome.MASK)
    load.record("b", REQUEST, EOFError("why"))
    first, second, total = count_outcomes(load.results)
    assert (first["requests"], second["LOST"]) == (1, 1)
    assert (total["requests"], total["mask"], total["LOST"]) == (2, 1, 1)
    assert load.complaints == ["LOST: b: a request: EOFError('why')"]
