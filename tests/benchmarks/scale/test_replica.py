"""A simulated server has the rules of the real one, and the waits of queueing theory."""

import asyncio
import math
import random
import time
from contextlib import AsyncExitStack

import pytest
from simpy import Environment

from app.errors import Overloaded
from app.observability.metrics import Metrics
from app.scheduling.admission import Admission as RealAdmission
from benchmarks.load import draw_arrivals
from benchmarks.scale.replica import (
    Admission,
    Batcher,
    DeviceEngine,
    Ending,
    Limits,
    Replica,
    Work,
)
from benchmarks.scale.simulation import simulate_closed_loop, simulate_open_loop
from tests.app.scheduling.test_batcher import GatedEngine, busy, canvas, running, waiting

ENDLESS = {"max_queue": 10**6, "deadline_s": 1e9}
FIXED = Work(loop_s=0, decode_s=0, inference_s=1, alone_s=1, encode_s=0)
PHOTO = Work(loop_s=0.002, decode_s=0.003, inference_s=0.05, alone_s=0.03, encode_s=0.001)


def make_device(callers):
    def make(environment):
        return Replica(
            environment,
            Limits(**ENDLESS),
            make_engine=lambda cores: DeviceEngine(
                environment,
                images_per_call=1,
                image_s=lambda work: work.inference_s,
                callers=callers,
            ),
        )

    return make


def make_server(**limits):
    return lambda environment: Replica(environment, Limits(**limits))


def draw_exponential(seed):
    rng = random.Random(seed)
    return lambda: Work(0, 0, rng.expovariate(1), 0, 0)


def measure_mean_wait(rate, draw, *, callers=1):
    services = []

    def draw_and_note():
        work = draw()
        services.append(work.inference_s)
        return work

    arrivals = draw_arrivals(rate, 10_000 / rate, 3)
    load = simulate_open_loop(arrivals, draw_and_note, make_replica=make_device(callers))
    return (sum(load.seconds) - sum(services)) / len(services)


def compute_erlang_c_wait(offered, servers):
    """The mean wait of M/M/c with a mean service of 1."""
    full = offered**servers / math.factorial(servers) * servers / (servers - offered)
    others = sum(offered**k / math.factorial(k) for k in range(servers))
    return full / (full + others) / (servers - offered)


@pytest.mark.parametrize(
    ("rate", "draw", "callers", "wait"),
    [
        (0.6, draw_exponential(1), 1, 0.6 / 0.4),
        (0.6, lambda: FIXED, 1, 0.6 / 0.8),
        (1.8, draw_exponential(2), 3, compute_erlang_c_wait(1.8, 3)),
    ],
    ids=["M/M/1", "M/D/1", "M/M/3"],
)
def test_the_mean_waits_are_those_of_queueing_theory(rate, draw, callers, wait):
    assert measure_mean_wait(rate, draw, callers=callers) == pytest.approx(wait, rel=0.1)


def test_a_batch_is_whatever_waits_as_in_the_real_batcher():
    """One canvas is in the engine; ten wait; the engine takes four at once."""
    engine = GatedEngine()

    async def ask_really():
        async with running(engine, max_batch_images=4) as batcher:
            first = await waiting(batcher, engine, canvas(0))
            await busy(engine)
            rest = await waiting(batcher, engine, *(canvas(number) for number in range(1, 11)))
            engine.gate.set()
            await asyncio.gather(*first, *rest)

    asyncio.run(ask_really())
    environment = Environment()
    device = DeviceEngine(environment, images_per_call=4, image_s=lambda _: 1)
    batcher = Batcher(environment, device)
    for _ in range(11):
        batcher.submit(FIXED)
    environment.run()
    assert batcher.batch_sizes == [len(batch) for batch in engine.batches] == [1, 4, 4, 2]


def test_a_lone_request_has_all_threads_and_several_have_one_each():
    (alone_s,) = simulate_closed_loop(
        1, 0.001, lambda: PHOTO, make_replica=make_server(cores=2)
    ).seconds
    assert alone_s == pytest.approx(0.002 + 0.003 + 0.03 + 0.001)
    load = simulate_closed_loop(8, 60, lambda: PHOTO, make_replica=make_server(cores=2))
    assert load.goodput == pytest.approx(2 / (0.002 + 0.003 + 0.05 + 0.001), rel=0.02)


def test_admission_decides_as_the_real_one():
    """The same places, paces and deadlines; the margins are wide, for the real one has a clock."""
    rng = random.Random(0)
    real = RealAdmission(max_queue=5, max_queue_pixels=10**9, metrics=Metrics())
    simulated = Admission(max_queue=5)

    async def scenario():
        decisions = set()
        for held in (0, 1, 3, 5):
            async with AsyncExitStack() as stack:
                simulated.admitted = held
                for _ in range(held):
                    await stack.enter_async_context(real.admit(1e9))
                for _ in range(20):
                    pace_s = rng.uniform(100, 1000)
                    real.update_pace(pace_s)
                    simulated.update_pace(pace_s)
                    left_s = real.predicted_wait_s * rng.choice((0.5, 2))
                    decision = is_admitted(real, left_s)
                    assert simulated.has_place(left_s) == decision
                    decisions.add((held, decision))
            for _ in range(held):  # as the real ones have just ended, after next to no time
                simulated.update_pace(0)
        return decisions

    decisions = asyncio.run(scenario())
    assert {(0, True), (1, True), (1, False), (5, False)} <= decisions
    assert not {(0, False), (5, True)} & decisions


def is_admitted(real, left_s):
    try:
        real.require_place(time.perf_counter() + left_s)
    except Overloaded:
        return False
    return True


def test_overload_is_refused_and_the_goodput_stays():
    capacity = 2 / (0.002 + 0.003 + 0.05 + 0.001)
    load = simulate_open_loop(
        draw_arrivals(3 * capacity, 60, 0), lambda: PHOTO, make_replica=make_server(cores=2)
    )
    assert load.goodput == pytest.approx(capacity, rel=0.05)
    assert load.share(Ending.REFUSED) == pytest.approx(2 / 3, abs=0.05)
    assert load.latency_s(1) < 1.1 * 64 / capacity


def test_a_request_that_would_be_late_is_refused_or_expires():
    load = simulate_open_loop(
        draw_arrivals(100, 20, 0), lambda: PHOTO, make_replica=make_server(cores=2, deadline_s=0.5)
    )
    assert load.latency_s(1) <= 0.5 + PHOTO.loop_s
    assert load.share(Ending.REFUSED) > 0.5
    assert sum(load.share(ending) for ending in Ending) == pytest.approx(1)


def test_the_same_seed_gives_the_same_load():
    def run():
        return simulate_open_loop(
            draw_arrivals(30, 20, 0), draw_exponential(5), make_replica=make_server(), replicas=3
        )

    assert run() == run()
