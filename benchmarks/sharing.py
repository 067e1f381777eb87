"""What it costs that the engine is in a process of its own: one worker with and without it.

Processor time is that of all processes of a server, and hardly depends on what else the machine
does.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from benchmarks.connection import upload_request
from benchmarks.cost import Measured, measure_closed_loop
from benchmarks.photos import describe_photos, make_photos
from benchmarks.process import OUR_PATH, start_our_server
from benchmarks.report import Row, publish, read_plan
from benchmarks.turns import QUICK, Plan, list_medians, take_turns

OWN, SHARED = "1 worker with its engine", "1 worker, 1 engine process"


def list_rows(found: Mapping[tuple[str, int], Sequence[Measured]]) -> list[Row]:
    """A row for each server: the medians of the rounds for each number of callers."""
    columns: dict[str, Callable[[Measured], float]] = {
        "images/s": lambda measured: measured.load.throughput,
        "p50 ms": lambda measured: measured.load.latency_ms(0.5),
        "CPU ms per image": lambda measured: measured.cpu_ms_per_answer,
    }
    return list_medians("server", (OWN, SHARED), found, columns=columns)


def main() -> None:
    plan = read_plan(Plan, "sharing", __doc__, quick=QUICK)
    requests = [upload_request(OUR_PATH, photo) for photo in make_photos(plan.photos)]
    with (
        start_our_server(threads=1, device="cpu") as own,
        start_our_server(threads=1, device="cpu", engines=1) as shared,
    ):
        engine = own.ask_for_engine()
        servers = {OWN: own, SHARED: shared}
        candidates = {
            name: partial(measure_closed_loop, server, requests) for name, server in servers.items()
        }
        found = take_turns(candidates, plan)
    publish(
        "sharing",
        f"The engine in a process of its own ({engine})",
        list_rows(found),
        plan=plan,
        engine=engine,
        photos=describe_photos(plan.photos),
    )


if __name__ == "__main__":
    main()
