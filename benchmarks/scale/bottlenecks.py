"""The next bottleneck: what each rate needs, and what limits a process that has a GPU.

Nobody has measured a GPU: its pace is an assumption.
"""

import math
from collections.abc import Iterator
from statistics import mean

from simpy import Environment

from benchmarks.report import Cell, Row
from benchmarks.scale.plan import Plan
from benchmarks.scale.replica import DeviceEngine, Limits, Replica
from benchmarks.scale.simulation import Simulated, simulate_closed_loop
from benchmarks.scale.stage_times import StageTimes, read_result

CALLERS = 128


def list_demands(plan: Plan, times: StageTimes) -> Iterator[Row]:
    """Yield what each rate needs of what the next bottleneck could be."""
    document = read_result("curves")
    samples = times.samples
    for rate in plan.rates:
        yield {
            "requests/s": str(rate),
            "ingress Gbit/s": 8e-9 * rate * document["request_bytes"],
            f"of {plan.large_bytes / 1e6:g} MB photos": 8e-9 * rate * plan.large_bytes,
            "egress": 8e-9 * rate * document["answer_bytes"],
            "engine cores": rate * mean(one.inference_s for one in samples),
            "codec cores": rate * mean(one.decode_s + one.encode_s for one in samples),
            "loop cores": rate * mean(one.loop_s for one in samples),
            "GPUs (assumed)": rate / plan.gpu_images,
        }


def find_gpu_limits(plan: Plan, times: StageTimes) -> Iterator[Row]:
    """Yield images/s of a process with a GPU, by the GPU's assumed pace and its own cores."""
    for pace in (plan.gpu_images / 4, plan.gpu_images / 2, plan.gpu_images, 2 * plan.gpu_images):
        row: dict[str, Cell] = {"GPU, images/s (assumed)": pace}
        for cores in (1, 2, 4, 8):
            load = simulate_gpu(plan, times, pace, cores)
            row[f"{cores} core{'s' * (cores > 1)}"] = load.goodput
        yield row


def simulate_gpu(plan: Plan, times: StageTimes, pace: float, cores: int) -> Simulated:
    """Many callers, none of whom is refused."""

    def make(environment: Environment) -> Replica:
        return Replica(
            environment,
            Limits(cores=cores, codec_threads=cores, max_queue=CALLERS, deadline_s=math.inf),
            make_engine=lambda _: DeviceEngine(
                environment, images_per_call=32, image_s=lambda _: 1 / pace
            ),
        )

    draw = times.start_drawing(0)
    return simulate_closed_loop(CALLERS, plan.gpu_seconds, draw, make_replica=make)
