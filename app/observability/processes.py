"""Prometheus' process metrics for several processes, with their names in the label `process`.

The values are not summed, because the processes share memory. Knows nothing of what they do.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class ProcessesCollector(Collector):
    """Collects the metrics of the processes that `pids` returns, by name, at each scrape."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for name, pid in self._pids().items():
            for family in _collect_process(pid):
                named = [
                    sample._replace(labels={**sample.labels, "process": name})
                    for sample in family.samples
                ]
                family.samples = []
                families.setdefault(family.name, family).samples += named
        return families.values()


def _collect_process(pid: int) -> Iterable[Metric]:
    """Return the metrics of a process; some or all are missing if it has just ended."""
    return ProcessCollector(pid=lambda: pid, registry=None).collect()
