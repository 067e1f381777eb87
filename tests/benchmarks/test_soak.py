"""A soak loses no answer and accepts no wrong one, and notices who does."""

import asyncio
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from benchmarks.callers import SLOW, Account, Callers, Judge, Leaving, Outcome
from benchmarks.catalogue import Request
from benchmarks.load import Answer, Connection, post_request
from benchmarks.soak import SHORT, errors_in, soak, trend_rows, two_weights
from benchmarks.watch import DESCRIPTORS, GROWS, RESIDENT, Sample, Watch, draw, trend
from model.predictor import open_predictor
from tests.benchmarks.test_server import TinyServer

REQUEST = Request("a request", post_request("/", b"x" * 100, headers={}))
JUDGE = Judge({REQUEST: {"": Answer(200, {}, b"mask")}})


def test_a_short_soak_loses_nothing_and_gets_nothing_wrong(tmp_path):
    report = soak(SHORT)
    assert report.failures() == []
    assert report.exit_status == 0
    assert report.reloads
    rows = {row["caller"]: row for row in report.account.rows()}
    assert set(Leaving) | {SLOW, "overload", "asks until the end"} <= set(rows)
    assert rows["keeps its connection"]["mask"] > 0
    assert rows["keeps its connection"]["refused"] == 0
    assert rows["broken images, kept connection"]["refused"] > 0
    assert rows["broken images, kept connection"]["mask"] == 0
    assert {row["value"] for row in trend_rows(report)} >= {RESIDENT, DESCRIPTORS}
    draw(tmp_path / "soak.png", report.watch.samples, spans=report.overloads, events=[1.0])
    assert (tmp_path / "soak.png").stat().st_size > 1000


def counted(server, ask):
    """The outcomes of what `ask` makes callers do at that server."""

    async def run():
        async with server.serving() as address:
            callers = Callers(address, JUDGE, random.Random(0))
            await ask(callers)
            return callers.account

    account = asyncio.run(run())
    return Counter({outcome: count for (_, outcome), count in account.counts.items()}), account


async def ask_once(callers):
    await callers.ask("test", REQUEST, Connection(callers.address))


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
def test_an_answer_is_judged_by_the_one_that_its_request_got_alone(answer, outcome):
    outcomes, account = counted(TinyServer([answer]), ask_once)
    assert outcomes == {outcome: 1}
    assert bool(account.complaints) == (outcome in (Outcome.LOST, Outcome.WRONG))


def test_a_mask_of_other_weights_than_the_answer_names_is_wrong():
    alone = {REQUEST: {"a": Answer(200, {}, b"mask a"), "b": Answer(200, {}, b"mask b")}}
    judge = Judge(alone)

    def outcome(digest, body):
        return judge.outcome(REQUEST, Answer(200, {"x-weights-digest": digest}, body))

    assert outcome("a", b"mask a") is outcome("b", b"mask b") is Outcome.MASK
    assert outcome("a", b"mask b") is outcome("c", b"mask a") is Outcome.WRONG


def test_a_problem_that_a_request_got_alone_is_no_mistake():
    judge = Judge({REQUEST: {"": Answer(422, {}, b"")}})
    assert judge.outcome(REQUEST, Answer(422, {}, b"")) is Outcome.REFUSED
    assert judge.outcome(REQUEST, Answer(413, {}, b"")) is Outcome.WRONG
    assert judge.outcome(REQUEST, Answer(408, {}, b""), slow=True) is Outcome.REFUSED


async def crawl_once(callers):
    await callers._crawl(REQUEST, 0.001)


def test_a_slow_caller_sends_the_whole_request_and_is_answered():
    server = TinyServer([(200, b"mask")])
    outcomes, _ = counted(server, crawl_once)
    assert outcomes == {Outcome.MASK: 1}
    assert server.requests == [REQUEST.body]


def test_a_slow_caller_who_is_cut_off_has_lost_nothing():
    class Impatient(TinyServer):
        async def _answer(self, reader, writer):
            await reader.readexactly(1)
            return False

    outcomes, _ = counted(Impatient([]), crawl_once)
    assert outcomes == {Outcome.CUT_OFF: 1}


def test_a_slow_caller_without_an_answer_has_lost_it():
    async def crawl(callers):
        async with asyncio.timeout(10):
            crawling = asyncio.create_task(callers.crawl([REQUEST], seconds=0.01))
            while not callers.account.ended:
                await asyncio.sleep(0)
            crawling.cancel()

    outcomes, _ = counted(TinyServer([None]), crawl)
    assert set(outcomes) == {Outcome.LOST}


def test_leaving_the_answer_needs_one():
    async def leave(callers):
        await callers._leave(REQUEST, Leaving.ANSWERED)

    server = TinyServer([(200, b"mask")])
    counted(server, leave)
    assert server.requests == [REQUEST.body]
    with pytest.raises(EOFError):
        counted(TinyServer([None]), leave)


def test_the_account_adds_up():
    account = Account()
    account.note("a", Outcome.MASK)
    account.note("b", Outcome.LOST, "why")
    first, second, total = account.rows()
    assert (first["requests"], second["LOST"]) == (1, 1)
    assert (total["requests"], total["mask"], total["LOST"]) == (2, 1, 1)
    assert account.complaints == ["LOST: b: why"]


def samples(values, *, every_s):
    return [Sample(every_s * i, {RESIDENT: value}, i) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "every_s", "verdict"),
    [
        ([100.0 + i for i in range(100)], 10, GROWS),
        ([100.0 + i for i in range(100)], 1, "too short to tell"),
        ([0.0, 50.0, *[100.0, 120.0] * 50], 10, "flat"),
        ([200.0 - i for i in range(100)], 10, "flat"),
    ],
)
def test_growth_is_told_from_noise_and_from_the_first_minutes(values, every_s, verdict):
    loaded = samples(values, every_s=every_s)
    found = trend(RESIDENT, Sample(0, {RESIDENT: 90.0}, 0), loaded, loaded[-1])
    assert found.verdict == verdict
    assert found.peak == max(values)
    assert found.start == 90
    if verdict == GROWS:
        assert found.per_hour == pytest.approx(360)


def test_errors_are_found_in_a_log():
    fine, bad = '{"level": "warning"}', '{"level": "error"}'
    assert errors_in(f"{fine}\n{bad}\nTraceback\n") == [bad, "Traceback"]


def test_the_two_weights_give_other_masks_for_everything(tmp_path, photo):
    shipped, turned = (open_predictor(file, device="cpu")(photo) for file in two_weights(tmp_path))
    assert not np.any(shipped == turned)


def test_a_process_that_has_ended_is_noticed():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
        Watch(process.pid, ended=lambda: 0).look()
