"""What happens when one zone of three is lost, and until its replicas are replaced."""

import math
from collections.abc import Iterator, Mapping

from benchmarks.load import draw_arrivals
from benchmarks.report import Row
from benchmarks.scale.plan import Plan
from benchmarks.scale.replica import Ending
from benchmarks.scale.simulation import Balance, Simulated, lose_a_zone, simulate_open_loop
from benchmarks.scale.stage_times import StageTimes
from benchmarks.scale.validation import make_maker

ZONES = 3


def lose_zones(plan: Plan, times: StageTimes) -> dict[float, Simulated]:
    """Simulate a fleet at each utilisation, of which a zone of three is lost and replaced."""
    loads = {}
    for utilisation in plan.utilisations:
        rate = utilisation * times.capacity * plan.replicas
        seconds = plan.before_s + plan.replaced_s + plan.after_s
        maker = make_maker(times)
        loads[utilisation] = simulate_open_loop(
            draw_arrivals(rate, seconds, 0), times.start_drawing(0),
            make_replica=maker, replicas=plan.replicas, balance=Balance.LEAST,
            change=lose_a_zone(
                zones=ZONES, at_s=plan.before_s, noticed_s=plan.noticed_s,
                replaced_s=plan.replaced_s, make_replica=maker,
            ),
        )  # fmt: skip
    return loads


def describe_zones(plan: Plan, loads: Mapping[float, Simulated]) -> Iterator[Row]:
    noticed_s, replaced_s = plan.before_s + plan.noticed_s, plan.before_s + plan.replaced_s
    recovered_s = replaced_s + plan.after_s / 2
    for utilisation, load in loads.items():
        unnoticed = load.select(plan.before_s, noticed_s)
        fewer = load.select(noticed_s, replaced_s)
        yield {
            "used before": utilisation,
            "used of two zones": utilisation * ZONES / (ZONES - 1),
            "p99 s before": load.select(0, plan.before_s).latency_s(0.99),
            "lost unnoticed": unnoticed.share(Ending.LOST),
            "refused then": fewer.share(Ending.REFUSED),
            "p99 s then": fewer.latency_s(0.99),
            "p99 s after": load.select(recovered_s, math.inf).latency_s(0.99),
        }
