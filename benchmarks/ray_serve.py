"""The service on Ray compared with the plain one, with one engine and with two.

Every engine has one thread. The services take turns, so that a slow period of the machine affects
all. Knows nothing of what happens between Ray's processes.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from app.settings import Settings
from benchmarks import report
from benchmarks.connection import Address, Request, upload_request
from benchmarks.load import SETTLE_S, run_closed_loop
from benchmarks.photos import describe_photos, make_photos
from benchmarks.process import HOST, OUR_PATH, start_our_server
from benchmarks.ray_cluster import start_ray_cluster
from benchmarks.report import Quick, Row, publish, read_plan
from benchmarks.results import Load
from model.extras import require_packages

PLAIN, PLAIN_TWO = "plain, 1 process", "plain, 2 workers"
RAY, RAY_TWO = "Ray, 1 engine", "Ray, 2 engines"

Loads = defaultdict[tuple[str, int], list[Load]]
"""The load of each round, by the service and the number of callers."""


@dataclass(frozen=True)
class Plan(report.Plan):
    photos: Annotated[int, "number of different photos", Quick(2)] = 8
    rounds: Annotated[int, "number of rounds", Quick(1)] = 5
    seconds: Annotated[float, "of each closed loop", Quick(0.5)] = 5.0
    callers: Annotated[Sequence[int], Quick((1,))] = (1, 8)


def deploy(engines: int) -> None:
    """Bring the deployment to this number of engine replicas, one on each node."""
    from ray import serve

    from app.ray.application import Options, compose

    options = Options(
        ingress_cpus=0.5, max_ingresses=1,
        engine_cpus=0.5, min_engines=engines, max_engines=engines,
    )  # fmt: skip
    serve.run(compose(Settings(device="cpu", threads=1), options))


def take_rounds(
    plan: Plan, loads: Loads, services: Mapping[str, Address], requests: Sequence[Request]
) -> None:
    """Run each service's closed loops once in every round, each after a pause."""
    for _ in range(plan.rounds):
        for callers in plan.callers:
            for name, address in services.items():
                time.sleep(SETTLE_S)
                load = run_closed_loop(address, requests, callers=callers, seconds=plan.seconds)
                loads[name, callers].append(load)


def list_rows(loads: Mapping[tuple[str, int], Sequence[Load]]) -> list[Row]:
    """Return a row for each service: the medians of the rounds for each number of callers."""
    rows = []
    for name in (PLAIN, RAY, PLAIN_TWO, RAY_TWO):
        row: dict[str, report.Cell] = {"service": name}
        for callers in dict.fromkeys(callers for _, callers in loads):
            own = loads[name, callers]
            rate = statistics.median(load.throughput for load in own)
            p50_ms = statistics.median(load.latency_ms(0.5) for load in own)
            row |= {f"images/s, {callers} callers": rate, f"p50 ms, {callers} callers": p50_ms}
        rows.append(row)
    return rows


def main() -> None:
    plan = read_plan(Plan, "ray_serve", __doc__)
    require_packages("ray", extra="ray")
    requests = [upload_request(OUR_PATH, photo) for photo in make_photos(plan.photos)]
    loads: Loads = defaultdict(list)
    with (
        start_our_server(threads=1, device="cpu") as one,
        start_our_server(threads=1, device="cpu", workers=2) as two,
        start_ray_cluster(1, 1) as cluster,
    ):
        engine = one.ask_for_engine()
        on_ray = Address(HOST, cluster.port)
        for engines, name in ((1, RAY), (2, RAY_TWO)):
            deploy(engines)
            services = {PLAIN: one.address, PLAIN_TWO: two.address, name: on_ray}
            take_rounds(plan, loads, services, requests)
    publish(
        "ray_serve",
        f"The service on Ray and without ({engine})",
        list_rows(loads),
        plan=plan,
        engine=engine,
        photos=describe_photos(plan.photos),
    )


if __name__ == "__main__":
    main()
