"""The work of simulated requests, drawn from what was measured: the stage times of closed loops.

Knows nothing of open loops: what they gave is left for the simulation to reproduce.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from benchmarks.report import RESULTS
from benchmarks.scale.replica import Limits, Work


@dataclass(frozen=True, slots=True)
class StageTimes:
    """The measured work of requests, on a machine with so many cores."""

    name: str
    cores: int
    samples: Sequence[Work]

    def start_drawing(self, seed: int) -> Callable[[], Work]:
        rng = random.Random(seed)
        return lambda: rng.choice(self.samples)

    @property
    def limits(self) -> Limits:
        return Limits(cores=self.cores)

    @property
    def cpu_s(self) -> float:
        """The mean seconds of a core for a request among others."""
        return mean(
            one.loop_s + one.decode_s + one.inference_s + one.encode_s for one in self.samples
        )

    @property
    def capacity(self) -> float:
        return self.cores / self.cpu_s


def read_result(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def read_one_core() -> StageTimes:
    """From benchmarks.curves: each request of one caller, and the processor time of an answer.

    Inference among others has the lone requests' distribution and the mean that is left of the
    processor time that the server used in the closed loops.
    """
    document = read_result("curves")
    lone = [[float(ms) / 1000 for ms in line.split()] for line in document["samples_ms"]]
    loops = document["Closed loops"]
    cpu_ms = sum(row["server's CPU ms an answer"] * row["requests"] for row in loops)
    cpu_s = cpu_ms / sum(row["requests"] for row in loops) / 1000
    means = [mean(column) for column in zip(*lone, strict=True)]
    decode_s, alone_s, encode_s, loop_s = means
    slower = (cpu_s - decode_s - encode_s - loop_s) / alone_s
    return StageTimes(
        "one core, AMD EPYC", 1,
        [
            Work(loop_s=loop, decode_s=decode, encode_s=encode, inference_s=slower * alone,
                 alone_s=alone)
            for decode, alone, encode, loop in lone
        ],
    )  # fmt: skip


def read_two_cores() -> StageTimes:
    """From benchmarks.server: the medians of lone requests, and the engine's own pace when busy."""
    document = read_result("server")
    rows = {row["figure"]: row for row in document["rows"]}
    cores = document["machine"]["cores"]

    def read_s(stage: str) -> float:
        ms: float = rows[f"lone request, ms {stage}"]["ours"]
        return ms / 1000

    busy = rows["images/s served to 16 callers, against the engine kept busy"]["engine alone"]
    work = Work(
        loop_s=read_s("besides decode, inference and encode"),
        decode_s=read_s("of decode"),
        inference_s=cores / busy,
        alone_s=read_s("of inference"),
        encode_s=read_s("of encode"),
    )
    return StageTimes("two cores, Intel Xeon", cores, [work])
