"""What the system says of several processes, as prometheus_client says it of one.

Each value is of one process, whose name is in the label `process`; nothing is summed, for they
share memory. Knows nothing of what the processes do.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class ProcessesCollector(Collector):
    """`pids`: asked at every scrape, by name."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for name, pid in self._pids().items():
            for family in _of_one(pid):
                named = [
                    sample._replace(labels={**sample.labels, "process": name})
                    for sample in family.samples
                ]
                family.samples = []
                families.setdefault(family.name, family).samples += named
        return families.values()


def _of_one(pid: int) -> Iterable[Metric]:
    """Nothing, or a part, of a process that has just ended."""
    return ProcessCollector(pid=lambda: pid, registry=None).collect()
