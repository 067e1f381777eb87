"""The service on Ray compared with the plain one, with one engine and with two.

In each round the servers are loaded in turns, so that a slow period of the machine affects all.
Every engine has one thread. Knows nothing of what happens between Ray's processes.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Annotated

import httpx

from app.settings import Settings
from benchmarks import report
from benchmarks.connection import Address, Request, upload_request
from benchmarks.load import LoadGenerator
from benchmarks.photos import describe_photos, make_photos
from benchmarks.process import HOST, OUR_PATH, start_our_server
from benchmarks.ray_cluster import start_ray_cluster
from benchmarks.report import Row, list_medians, publish, read_plan
from benchmarks.results import Load

SETTLE_S = 0.2

PLAIN, PLAIN_TWO = "plain, 1 process", "plain, 2 workers"
RAY, RAY_TWO = "Ray, 1 engine", "Ray, 2 engines"


@dataclass(frozen=True)
class Plan(report.Plan):
    photos: Annotated[int, "number of different photos"] = 8
    rounds: Annotated[int, "number of rounds"] = 3
    seconds: Annotated[float, "of each closed loop"] = 3.0
    callers: Sequence[int] = (1, 8)


QUICK = {"photos": 2, "rounds": 1, "seconds": 0.5, "callers": (1,)}


def deploy(engines: int) -> None:
    """Bring the deployment to this number of engine replicas, one on each node."""
    from ray import serve

    from app.ray.application import Options, compose

    options = Options(
        ingress_cpus=0.5, max_ingresses=1,
        engine_cpus=0.5, min_engines=engines, max_engines=engines,
    )  # fmt: skip
    serve.run(compose(Settings(device="cpu", threads=1), options))


def load(address: Address, requests: Sequence[Request], plan: Plan, callers: int) -> Load:
    time.sleep(SETTLE_S)
    generator = LoadGenerator(address)
    return asyncio.run(generator.run_closed_loop(requests, callers=callers, seconds=plan.seconds))


def list_rows(loads: dict[tuple[str, int], list[Load]], plan: Plan) -> list[Row]:
    """A row for each candidate: images per second and latency of each number of callers."""
    names = (PLAIN, RAY, PLAIN_TWO, RAY_TWO)
    columns = {"images/s": attrgetter("throughput"), "p50 ms": methodcaller("latency_ms", 0.5)}
    return list_medians("service", names, loads, callers=plan.callers, columns=columns)


def main() -> None:
    plan = read_plan(Plan, "ray_serve", __doc__, quick=QUICK)
    requests = [upload_request(OUR_PATH, photo) for photo in make_photos(plan.photos)]
    loads: dict[tuple[str, int], list[Load]] = defaultdict(list)
    with (
        start_our_server(threads=1, device="cpu") as one,
        start_our_server(threads=1, device="cpu", workers=2) as two,
        start_ray_cluster(1, 1) as cluster,
    ):
        engine = httpx.get(f"{one.address.url}/v1/model").json()["engine"]
        on_ray = Address(HOST, cluster.port)
        for engines, name in ((1, RAY), (2, RAY_TWO)):
            deploy(engines)
            candidates = {PLAIN: one.address, PLAIN_TWO: two.address, name: on_ray}
            for _ in range(plan.rounds):
                for callers in plan.callers:
                    for who, address in candidates.items():
                        loads[who, callers].append(load(address, requests, plan, callers))
    publish(
        "ray_serve",
        f"The service on Ray and without ({engine})",
        list_rows(loads, plan),
        plan=plan,
        engine=engine,
        photos=describe_photos(plan.photos),
    )


if __name__ == "__main__":
    main()
