"""How many replicas for so many requests per second at a p99, and what a million images cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.load import draw_arrivals
from benchmarks.report import Row
from benchmarks.scale.plan import Plan
from benchmarks.scale.replica import Ending
from benchmarks.scale.simulation import Balance, Simulated, simulate_open_loop
from benchmarks.scale.stage_times import StageTimes
from benchmarks.scale.validation import make_maker

MAX_REFUSED = 0.001
"""A fleet that refuses more of its requests is too small, whatever its p99."""

MOST_USED = 0.9
"""More is not planned for: the pace of the measured machine varied by 3 to 5 %."""


def simulate_fleet(
    plan: Plan, times: StageTimes, utilisation: float, balance: Balance
) -> Simulated:
    rate = utilisation * times.capacity * plan.replicas
    arrivals = draw_arrivals(rate, plan.requests * plan.replicas / rate, seed=0)
    return simulate_open_loop(
        arrivals, times.start_drawing(0), make_replica=make_maker(times),
        replicas=plan.replicas, balance=balance,
    )  # fmt: skip


def find_utilisation(plan: Plan, times: StageTimes, target_s: float, balance: Balance) -> float:
    """Find the largest utilisation at which p99 is within the target and few are refused."""

    def is_enough(utilisation: float) -> bool:
        load = simulate_fleet(plan, times, utilisation, balance)
        return load.latency_s(0.99) <= target_s and load.share(Ending.REFUSED) <= MAX_REFUSED

    low, high = 0.0, MOST_USED
    if is_enough(high):
        return high
    for _ in range(plan.steps):
        middle = (low + high) / 2
        low, high = (middle, high) if is_enough(middle) else (low, middle)
    return low


def draw_curves(
    plan: Plan, machines: Sequence[StageTimes]
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Utilisation and p99, by machine and balance, for a plot."""
    return {
        (times.name, balance.value): [
            (part, simulate_fleet(plan, times, part, balance).latency_s(0.99))
            for part in plan.drawn_utilisations
        ]
        for times in machines
        for balance in Balance
    }


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rate at which a replica is used, and why."""

    times: StageTimes
    target_s: float
    balance: Balance
    utilisation: float

    @property
    def rate(self) -> float:
        return self.utilisation * self.times.capacity


def choose_rates(plan: Plan, machines: Sequence[StageTimes]) -> list[Chosen]:
    return [
        Chosen(times, target_s, balance, find_utilisation(plan, times, target_s, balance))
        for times in machines
        for target_s in plan.targets_s
        for balance in Balance
    ]


def count_replicas(plan: Plan, chosen: Sequence[Chosen]) -> Iterator[Row]:
    for one in chosen:
        # One request alone may already take longer.
        counts = {f"{rate}/s": divide_up(rate, one.rate) for rate in plan.rates}
        yield {
            "replica": one.times.name,
            "p99 s": one.target_s,
            "balancer": one.balance.value,
            "utilisation": one.utilisation,
            "requests/s each": one.rate,
            **counts,
        }


def divide_up(rate: float, each: float) -> str:
    return f"{int(-(-rate // each))}" if each else "none is enough"


def price_a_million(plan: Plan, chosen: Sequence[Chosen]) -> Iterator[Row]:
    """Yield core-hours of a million images: with full cores, and at the rates of a p99."""

    def price(name: str, how: str, core_s: float) -> Row:
        hours = core_s * 1e6 / 3600
        priced = {
            "core-hours": hours,
            f"price at {plan.price_per_core_hour:g}/h": hours * plan.price_per_core_hour,
        }
        return {"replica": name, "use": how, **priced}

    for times in dict.fromkeys(one.times.name for one in chosen):
        (first, *_) = (one for one in chosen if one.times.name == times)
        yield price(times, "bulk, always busy", first.times.cpu_s)
        for one in chosen:
            if one.times is first.times and one.balance is Balance.LEAST and one.rate:
                how = f"online, p99 {one.target_s:g} s, balanced by {one.balance}"
                yield price(times, how, one.times.cores / one.rate)
