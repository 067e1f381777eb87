"""The metrics of a replica for Ray, which exports those of a node's replicas together.

Every sample becomes a gauge of Ray's, with the labels of the replica. Knows nothing of what is
counted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import structlog
from prometheus_client.parser import text_string_to_metric_families
from ray.serve.metrics import Gauge

from app.observability.metrics import PREFIX, Metrics

INTERVAL_S = 5
"""The seconds between two exports; Ray's own are every 10 s."""

log = structlog.get_logger("segmentation")


@asynccontextmanager
async def exporting(metrics: Metrics) -> AsyncIterator[None]:
    """Export the metrics during the block, and once more at its end.

    An export that fails is logged, and the next one is tried all the same.
    """
    gauges = Gauges()

    async def export_again() -> None:
        while True:
            with logging_failures():
                await metrics.refresh()
                gauges.export(metrics)
            await asyncio.sleep(INTERVAL_S)

    task = asyncio.create_task(export_again(), name="export")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        with logging_failures():
            gauges.export(metrics)


@contextmanager
def logging_failures() -> Iterator[None]:
    try:
        yield
    except Exception:
        log.exception("metrics not exported")


class Gauges:
    """Ray's gauges with the samples of our metrics."""

    def __init__(self, make_gauge: Callable[..., Gauge] = Gauge) -> None:
        self._make_gauge = make_gauge
        self._gauges: dict[str, Gauge] = {}
        self._series: dict[tuple[Any, ...], dict[str, str]] = {}
        """The labels of each series that Ray has."""

    def export(self, metrics: Metrics) -> None:
        """Set a gauge for each sample.

        Ray cannot remove a series. So one that our metrics no longer have becomes 0, such as that
        of the old weights after a reload.
        """
        current = {}
        for family in text_string_to_metric_families(metrics.export().decode()):
            for name, labels, value, *_ in family.samples:
                if name.startswith(PREFIX):
                    self._find(name, family.documentation, labels).set(value, tags=labels)
                    current[name, *labels.items()] = labels
        for series in self._series.keys() - current.keys():
            self._gauges[series[0]].set(0, tags=self._series[series])
        self._series |= current

    def _find(self, name: str, documentation: str, labels: Mapping[str, str]) -> Gauge:
        """Return the gauge of that name; make it the first time."""
        if name not in self._gauges:
            keys = tuple(labels)
            self._gauges[name] = self._make_gauge(name, documentation, tag_keys=keys)
        return self._gauges[name]
