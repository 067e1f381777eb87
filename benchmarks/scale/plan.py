"""How much is simulated, and what is assumed: options of `python -m benchmarks.scale`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from benchmarks import report


@dataclass(frozen=True)
class Plan(report.Plan):
    price_per_core_hour: Annotated[float, "in any currency; an example"] = 0.04
    gpu_images: Annotated[float, "images/s of a GPU; an assumption"] = 1000.0
    large_bytes: Annotated[float, "bytes of a photo as phones make them; an assumption"] = 3e6
    replicas: Annotated[int, "of the simulated fleet"] = 12
    requests: Annotated[int, "for each replica and rate"] = 800
    steps: int = 6
    """Halvings of the interval in which a rate is searched."""
    targets_s: Sequence[float] = (0.3, 1.0)
    rates: Sequence[int] = (100, 1_000, 10_000, 100_000)
    utilisations: Sequence[float] = (0.5, 0.6, 0.67, 0.75, 0.85)
    gpu_seconds: float = 10.0
    drawn_utilisations: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
    noticed_s: float = 10.0
    """From the loss of a zone until the balancer sends nothing there any more."""
    replaced_s: float = 180.0
    """From the loss until as many new replicas are ready elsewhere."""
    before_s: float = 30.0
    after_s: float = 60.0


QUICK = {
    "replicas": 3, "requests": 100, "steps": 2, "utilisations": (0.6,), "noticed_s": 2,
    "replaced_s": 10, "gpu_seconds": 1, "before_s": 5, "after_s": 5,
}  # fmt: skip
