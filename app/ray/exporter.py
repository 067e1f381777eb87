"""The metrics of a replica for Ray, which exports those of a node's replicas together.

Every sample becomes a gauge of Ray's, with the labels of the replica. Knows nothing of what is
counted.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
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
    gauges: dict[str, Gauge] = {}

    async def export_again() -> None:
        while True:
            with logging_failures():
                await metrics.refresh()
                export_samples(metrics, gauges)
            await asyncio.sleep(INTERVAL_S)

    task = asyncio.create_task(export_again(), name="export")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        with logging_failures():
            export_samples(metrics, gauges)


@contextmanager
def logging_failures() -> Iterator[None]:
    try:
        yield
    except Exception:
        log.exception("metrics not exported")


def export_samples(metrics: Metrics, gauges: dict[str, Gauge]) -> None:
    """Set a gauge of Ray's for each sample of ours; `gauges` holds those that exist."""
    for family in text_string_to_metric_families(metrics.export().decode()):
        for sample in family.samples:
            if not sample.name.startswith(PREFIX):
                continue
            if sample.name not in gauges:
                labels: Any = tuple(sample.labels)  # of any number, whatever Ray's annotation says
                gauges[sample.name] = Gauge(sample.name, family.documentation, tag_keys=labels)
            gauges[sample.name].set(sample.value, tags=sample.labels)
