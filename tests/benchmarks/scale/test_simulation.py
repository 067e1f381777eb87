"""Fleets: how a balancer chooses, and what a lost zone costs."""

import pytest

from benchmarks.load import draw_arrivals
from benchmarks.scale.replica import Ending, Limits, Replica, Work
from benchmarks.scale.simulation import Balance, lose_a_zone, simulate_open_loop

PHOTO = Work(loop_s=0.002, decode_s=0.003, inference_s=0.05, alone_s=0.03, encode_s=0.001)


def make_replica(environment):
    return Replica(environment, Limits(cores=2))


def simulate(rate, seconds=60, **options):
    arrivals = draw_arrivals(rate, seconds, 0)
    return simulate_open_loop(arrivals, lambda: PHOTO, make_replica=make_replica, **options)


def test_the_least_outstanding_replica_is_the_better_choice():
    randomly, least = (simulate(80, replicas=3, balance=balance) for balance in Balance)
    assert least.latency_s(0.99) < randomly.latency_s(0.99)
    assert randomly.share(Ending.ANSWERED) == least.share(Ending.ANSWERED) == 1


def test_a_lost_zone_loses_requests_until_it_is_noticed_and_no_longer():
    change = lose_a_zone(zones=3, at_s=20, noticed_s=10, replaced_s=20, make_replica=make_replica)
    load = simulate(60, replicas=3, change=change)
    assert load.select(0, 19).share(Ending.ANSWERED) == 1
    assert load.select(20, 30).share(Ending.LOST) == pytest.approx(1 / 3, abs=0.06)
    assert load.select(30, 60).share(Ending.LOST) == 0


def test_two_zones_that_are_too_small_refuse_until_the_third_is_replaced():
    change = lose_a_zone(zones=3, at_s=5, noticed_s=1, replaced_s=30, make_replica=make_replica)
    load = simulate(100, replicas=3, balance=Balance.LEAST, change=change)
    assert load.select(0, 5).share(Ending.REFUSED) == 0
    assert load.select(25, 35).share(Ending.REFUSED) > 0.1
    assert load.select(50, 60).share(Ending.REFUSED) == 0
