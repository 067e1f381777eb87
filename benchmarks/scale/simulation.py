"""Loads of simulated servers: open loops, closed loops, fleets behind a balancer, lost zones.

Knows nothing of how the times were measured. Times are simulated seconds.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from simpy import Environment

from benchmarks.results import find_quantile
from benchmarks.scale.replica import Ending, Replica, Steps, Work

Draw = Callable[[], Work]
"""Returns the work of the next request."""

MakeReplica = Callable[[Environment], Replica]


class Balance(StrEnum):
    """How a balancer chooses the replica of a request."""

    RANDOM = "random"
    LEAST = "least outstanding"


@dataclass(frozen=True, slots=True)
class Simulated:
    """The requests of a simulated load: when each was due, how long it took, how it ended."""

    due_s: Sequence[float]
    seconds: Sequence[float]
    endings: Sequence[Ending]
    wall_s: float

    @property
    def goodput(self) -> float:
        return self.endings.count(Ending.ANSWERED) / self.wall_s

    def share(self, ending: Ending) -> float:
        return self.endings.count(ending) / len(self.endings)

    def latency_s(self, quantile: float) -> float:
        """Return the quantile of the latencies of the answered; NaN if there are none."""
        pairs = zip(self.seconds, self.endings, strict=True)
        answered = (s for s, ending in pairs if ending is Ending.ANSWERED)
        return find_quantile(answered, quantile)

    def select(self, since_s: float, until_s: float) -> "Simulated":
        """Return the requests that were due in that time."""
        rows = zip(self.due_s, self.seconds, self.endings, strict=True)
        chosen = [row for row in rows if since_s <= row[0] < until_s] or [(0, 0, Ending.LOST)]
        return Simulated(*map(list, zip(*chosen, strict=True)), until_s - since_s)  # type: ignore[arg-type]


@dataclass(slots=True)
class Fleet:
    """Replicas behind a balancer, and what became of the requests."""

    environment: Environment
    replicas: Sequence[Replica]
    balance: Balance = Balance.RANDOM
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    lost: set[Replica] = field(default_factory=set)
    """Lost replicas, of which the balancer may not know yet; they answer nothing."""
    due_s: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    def choose(self) -> Replica:
        if self.balance is Balance.RANDOM or len(self.replicas) == 1:
            return self.rng.choice(self.replicas)
        fewest = min(replica.outstanding for replica in self.replicas)
        return self.rng.choice([it for it in self.replicas if it.outstanding == fewest])

    def ask(self, work: Work) -> Steps:
        due, replica = self.environment.now, self.choose()
        if replica not in self.lost:
            ending = yield from replica.handle(work)
        if replica in self.lost:
            ending = Ending.LOST
            # It hangs: for the balancer it stays outstanding.
            replica.outstanding += 1
        self.due_s.append(due)
        self.seconds.append(self.environment.now - due)
        self.endings.append(ending)

    def finish(self) -> Simulated:
        return Simulated(self.due_s, self.seconds, self.endings, self.environment.now)


def simulate_open_loop(
    arrivals_s: Iterable[float], draw: Draw, *, make_replica: MakeReplica, replicas: int = 1,
    balance: Balance = Balance.RANDOM, change: Callable[[Fleet], Steps] | None = None,
) -> Simulated:  # fmt: skip
    """Send each request when it is due; `change` is a process beside them that alters the fleet."""
    environment = Environment()
    fleet = Fleet(environment, [make_replica(environment) for _ in range(replicas)], balance)

    def arrive() -> Steps:
        for due in arrivals_s:
            yield environment.timeout(due - environment.now)
            environment.process(fleet.ask(draw()))

    environment.process(arrive())
    if change is not None:
        environment.process(change(fleet))
    environment.run()
    return fleet.finish()


def simulate_closed_loop(
    callers: int, seconds: float, draw: Draw, *, make_replica: MakeReplica
) -> Simulated:
    """Let each caller send a request after the response to the one before."""
    environment = Environment()
    fleet = Fleet(environment, [make_replica(environment)])

    def call() -> Steps:
        while environment.now < seconds:
            yield from fleet.ask(draw())

    for _ in range(callers):
        environment.process(call())
    environment.run()
    return fleet.finish()


def lose_a_zone(
    *, zones: int, at_s: float, noticed_s: float, replaced_s: float, make_replica: MakeReplica
) -> Callable[[Fleet], Steps]:
    """Return the change: every `zones`th replica is lost, then noticed, then replaced elsewhere."""

    def change(fleet: Fleet) -> Steps:
        yield fleet.environment.timeout(at_s)
        gone = fleet.replicas[::zones]
        fleet.lost |= set(gone)
        yield fleet.environment.timeout(noticed_s)
        fleet.replicas = [it for it in fleet.replicas if it not in fleet.lost]
        yield fleet.environment.timeout(replaced_s - noticed_s)
        fleet.replicas = [*fleet.replicas, *(make_replica(fleet.environment) for _ in gone)]

    return change
