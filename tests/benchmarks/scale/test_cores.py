"""Threads share simulated cores as processor sharing says."""

import random

import pytest
from simpy import Environment

from benchmarks.load import draw_arrivals
from benchmarks.scale.cores import Cores


def run(cores, *threads, reserved=()):
    """The end of each run of (start, seconds, threads)."""
    environment = cores.environment
    ends = {}

    def thread(number, start, seconds, count=1):
        yield environment.timeout(start)
        yield cores.run(seconds, threads=count)
        ends[number] = environment.now

    def loop(start, seconds):
        yield environment.timeout(start)
        with cores.reserve():
            yield environment.timeout(seconds)

    for number, one in enumerate(threads):
        environment.process(thread(number, *one))
    for one in reserved:
        environment.process(loop(*one))
    environment.run()
    return [ends[number] for number in range(len(threads))]


def test_no_thread_is_faster_than_a_core_and_more_threads_share_them():
    assert run(Cores(Environment(), 2), (0, 3)) == [3]
    assert run(Cores(Environment(), 2), (0, 3), (0, 3)) == [3, 3]
    assert run(Cores(Environment(), 2), (0, 2), (0, 2), (0, 2)) == pytest.approx([3, 3, 3])


def test_a_thread_that_comes_later_slows_down_those_that_run():
    # One alone for 1 s, then two on one core, until the second has run for 1 s.
    assert run(Cores(Environment(), 1), (0, 4), (1, 1)) == pytest.approx([5, 3])


def test_work_with_all_threads_ends_when_all_have_ended():
    cores = Cores(Environment(), 2)
    assert run(cores, (0, 2, 2), (0, 1)) == pytest.approx([2.5, 1.5])
    assert cores.used_s == pytest.approx(5)


def test_a_core_that_is_reserved_is_not_for_threads():
    cores = Cores(Environment(), 1)
    assert run(cores, (0, 2), reserved=[(1, 5)]) == pytest.approx([7])
    assert cores.used_s == pytest.approx(7)


def test_the_mean_of_processor_sharing_is_that_of_queueing_theory():
    """M/G/1 with processor sharing: the mean service over one minus the load, for any service."""
    environment = Environment()
    cores, rng, seconds = Cores(environment, 1), random.Random(1), []

    def thread():
        started = environment.now
        yield cores.run(rng.choice((0.2, 1.8)))
        seconds.append(environment.now - started)

    def arrive():
        for due in draw_arrivals(0.6, 8_000, 2):
            yield environment.timeout(due - environment.now)
            environment.process(thread())

    environment.process(arrive())
    environment.run()
    assert sum(seconds) / len(seconds) == pytest.approx(1 / (1 - 0.6), rel=0.1)
