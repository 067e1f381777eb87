"""The answers follow from the simulated rates; a small plan is enough to see how."""

import pytest

from benchmarks.scale.bottlenecks import list_demands, simulate_gpu
from benchmarks.scale.plan import Plan
from benchmarks.scale.replica import Work
from benchmarks.scale.simulation import Balance
from benchmarks.scale.sizing import (
    MOST_USED,
    Chosen,
    count_replicas,
    find_utilisation,
    price_a_million,
)
from benchmarks.scale.stage_times import StageTimes
from benchmarks.scale.zones import describe_zones, lose_zones

PHOTO = Work(loop_s=0.002, decode_s=0.003, inference_s=0.05, alone_s=0.03, encode_s=0.001)
MACHINE = StageTimes("two cores", 2, [PHOTO])
PLAN = Plan.make_quick()


def test_a_longer_wait_allows_more_use_but_not_all_of_it():
    none, some, most = (
        find_utilisation(PLAN, MACHINE, target_s, Balance.RANDOM) for target_s in (0.03, 0.15, 60)
    )
    assert none == 0 < some < most == MOST_USED


def test_replicas_are_rounded_up_and_a_limit_that_none_keeps_says_so():
    plan = Plan(rates=(100, 1000))
    half = Chosen(MACHINE, 0.3, Balance.LEAST, 0.5)
    none = Chosen(MACHINE, 0.01, Balance.LEAST, 0.0)
    first, second = count_replicas(plan, [half, none])
    assert half.rate == pytest.approx(0.5 * 2 / 0.056)
    assert (first["100/s"], first["1000/s"]) == ("6", "56")
    assert second["100/s"] == "none is enough"


def test_a_million_images_cost_their_core_hours():
    half = Chosen(MACHINE, 0.3, Balance.LEAST, 0.5)
    bulk, online = price_a_million(Plan(price_per_core_hour=2), [half])
    assert bulk["core-hours"] == pytest.approx(0.056 * 1e6 / 3600)
    assert online["core-hours"] == pytest.approx(2 * bulk["core-hours"])
    assert bulk["price at 2/h"] == 2 * bulk["core-hours"]


def test_a_fast_gpu_waits_for_the_event_loop():
    slow, fast = (simulate_gpu(PLAN, MACHINE, pace, 8).goodput for pace in (100, 10_000))
    assert slow == pytest.approx(100, rel=0.1)
    assert fast == pytest.approx(1 / PHOTO.loop_s, rel=0.1)


def test_demands_grow_with_the_rate():
    (row,) = list_demands(Plan(rates=(1000,)), MACHINE)
    assert row["engine cores"] == pytest.approx(50)
    assert row["codec cores"] == pytest.approx(4)
    assert row["GPUs (assumed)"] == pytest.approx(1)


def test_a_lost_zone_is_described_before_it_during_it_and_after_it():
    (row,) = describe_zones(PLAN, lose_zones(PLAN, MACHINE))
    assert row["used of two zones"] == pytest.approx(0.9)
    assert row["lost unnoticed"] > 0
    assert row["p99 s before"] < row["p99 s then"] > row["p99 s after"]
