"""The service on Ray compared with the plain one, with one engine and with two.

Every engine has one thread. Knows nothing of what happens between Ray's processes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter, methodcaller

from app.settings import Settings
from benchmarks.connection import Address, upload_request
from benchmarks.load import run_closed_loop
from benchmarks.photos import describe_photos, make_photos
from benchmarks.process import HOST, OUR_PATH, start_our_server
from benchmarks.ray_cluster import start_ray_cluster
from benchmarks.report import Row, publish, read_plan
from benchmarks.results import Load
from benchmarks.turns import QUICK, Plan, list_medians, take_turns
from model.extras import require_packages

PLAIN, PLAIN_TWO = "plain, 1 process", "plain, 2 workers"
RAY, RAY_TWO = "Ray, 1 engine", "Ray, 2 engines"


def deploy(engines: int) -> None:
    """Bring the deployment to this number of engine replicas, one on each node."""
    from ray import serve

    from app.ray.application import Options, compose

    options = Options(
        ingress_cpus=0.5, max_ingresses=1,
        engine_cpus=0.5, min_engines=engines, max_engines=engines,
    )  # fmt: skip
    serve.run(compose(Settings(device="cpu", threads=1), options))


def list_rows(loads: Mapping[tuple[str, int], Sequence[Load]]) -> list[Row]:
    """A row for each service: images per second and latency of each number of callers."""
    names = (PLAIN, RAY, PLAIN_TWO, RAY_TWO)
    columns = {"images/s": attrgetter("throughput"), "p50 ms": methodcaller("latency_ms", 0.5)}
    return list_medians("service", names, loads, columns=columns)


def main() -> None:
    plan = read_plan(Plan, "ray_serve", __doc__, quick=QUICK)
    require_packages("ray", extra="ray")
    requests = [upload_request(OUR_PATH, photo) for photo in make_photos(plan.photos)]
    loads: dict[tuple[str, int], list[Load]] = defaultdict(list)
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
            candidates = {
                who: partial(run_closed_loop, address, requests)
                for who, address in services.items()
            }
            for key, found in take_turns(candidates, plan).items():
                loads[key] += found
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
