"""How much is simulated, and what is assumed: options of `python -m benchmarks.scale`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from benchmarks import report
from benchmarks.report import Quick


@dataclass(frozen=True)
class Plan(report.Plan):
    price_per_core_hour: Annotated[float, "in any currency; an example"] = 0.04
    gpu_images: Annotated[float, "images/s of a GPU; an assumption"] = 1000.0
    large_bytes: Annotated[float, "bytes of a photo as phones make them; an assumption"] = 3e6
    replicas: Annotated[int, "of the simulated fleet", Quick(3)] = 12
    requests: Annotated[int, "for each replica and rate", Quick(100)] = 800
    steps: Annotated[int, Quick(2)] = 6
    """Halvings of the interval in which a rate is searched."""
    targets_s: Sequence[float] = (0.3, 1.0)
    rates: Sequence[int] = (100, 1_000, 10_000, 100_000)
    utilisations: Annotated[Sequence[float], Quick((0.6,))] = (0.5, 0.6, 0.67, 0.75, 0.85)
    gpu_seconds: Annotated[float, Quick(1)] = 10.0
    drawn_utilisations: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
    noticed_s: Annotated[float, Quick(2)] = 10.0
    """From the loss of a zone until the balancer sends nothing there any more."""
    replaced_s: Annotated[float, Quick(10)] = 180.0
    """From the loss until as many new replicas are ready elsewhere."""
    before_s: Annotated[float, Quick(5)] = 30.0
    after_s: Annotated[float, Quick(5)] = 60.0
