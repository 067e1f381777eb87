"""The metrics for Prometheus: requests, stages, batches, the queue, refusals.

Several workers keep their values in files in a shared folder, and each worker exports the values of
all. Knows nothing of what is counted.
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    values,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.observability.gpus import LatestMetrics
from app.observability.peers import Peers
from app.observability.processes import ProcessesCollector

PREFIX = "seg_"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable in which prometheus_client looks for the folder."""

SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15, 20, 25, 30),
    *(60, 120),  # for deadlines above the default of 30 s, and for slow clients
)
FILL_RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

GaugeMode = Literal["livesum", "livemin", "livemax"]


class Metrics:
    """The metrics of the server, or those of all workers if there are `peers`."""

    def __init__(self, peers: Peers | None = None, *, gpus: LatestMetrics | None = None) -> None:
        """`gpus` are of the machine: each process exports them as they are."""
        self._peers = peers
        _choose_storage(peers)
        self.registry = CollectorRegistry()
        self._gpus = gpus
        if peers is None:
            ProcessCollector(registry=self.registry)
            PlatformCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests by route and status", "route", "status")
        self.files = self._counter("files", "Files of batch requests by status", "status")
        self.request_seconds = self._histogram(
            "request_seconds", "Time from a request's head to its last byte", SECONDS, "route"
        )
        self.stage_seconds = self._histogram(
            "stage_seconds", "Time of one stage of a segmentation", SECONDS, "stage"
        )
        self._add_scheduling()
        self._add_connections()
        self._add_failures()
        self._add_weights()

    def _add_scheduling(self) -> None:
        self.batch_size = self._histogram("batch_size", "Images in one engine call", BATCH_SIZES)
        self.batch_fill = self._histogram(
            "batch_fill_ratio", "Images in one engine call, relative to its limit", FILL_RATIOS
        )
        self.queue_depth = self._gauge("queue_depth", "Images that wait for the engine")
        self.oldest_since = self._gauge(
            "queue_oldest_since_seconds",
            "Unix time when the first of them came",
            mode="livemin",
        )
        self.oldest_since.set(math.inf)
        self.in_flight = self._gauge("in_flight", "Admitted requests that are not answered yet")
        self.pixels = self._gauge("pixels", "Pixels of the admitted requests' images")
        self.upload_bytes = self._gauge("upload_bytes", "Bytes of uploads that are held")
        self.answer_bytes = self._gauge(
            "answer_bytes", "Bytes of answers that clients have not received yet"
        )
        self.codec_tasks = self._gauge(
            "codec_tasks", "Decodings and encodings that wait or run, even if the client is gone"
        )

    def _add_connections(self) -> None:
        self.connections = self._gauge("connections", "Open connections")
        self.connections_refused = self._counter(
            "connections_refused", "Connections refused because there were too many"
        )
        self.rejections = self._counter(
            "rejections", "Requests, and files of batches, answered with a problem", "reason"
        )
        self.rate_fallbacks = self._counter(
            "rate_fallbacks", "Requests counted by this process alone, without the rate storage"
        )
        self.dropped = self._counter(
            "dropped", "Requests whose client disconnected, by stage", "stage"
        )

    def _add_failures(self) -> None:
        self.engine_failures = self._counter("engine_failures", "Engine calls that failed")
        self.engine_restarts = self._counter(
            "engine_restarts", "Restarted workers and engine processes"
        )
        self.decoders_ended = self._counter(
            "decoders_ended", "Decoder processes that an upload ended", "reason"
        )
        for reason in ("time", "memory", "crash", "killed"):
            self.decoders_ended.labels(reason)

    def _add_weights(self) -> None:
        self.reloads = self._counter("reloads", "Reloads of the weights", "outcome")
        for outcome in ("swapped", "kept"):
            self.reloads.labels(
                outcome
            )  # starts at 0: Prometheus sees no increase from nothing to 1
        self._shown: set[tuple[str, str]] = set()
        self.ready = self._gauge("ready", "1 while the server takes requests", mode="livemax")
        self.model_info = self._gauge(
            "model_info", "1 for the weights in use", "digest", "engine", mode="livemax"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, mode: GaugeMode = "livesum") -> Gauge:
        """Register a gauge; `mode` says how the values of several workers are combined."""
        return Gauge(PREFIX + name, text, labels, registry=self.registry, multiprocess_mode=mode)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self.registry)

    def show_weights(self, *, digest: str, engine: str) -> None:
        """Show only these weights as the ones in use."""
        if self._peers is not None:
            for labels in self._shown:
                self.model_info.labels(*labels).set(0)  # a shared file cannot drop labels
        else:
            self.model_info.clear()
        self._shown.add((digest, engine))
        self.model_info.labels(digest, engine).set(1)

    async def refresh(self) -> None:
        """Ask the GPUs, without blocking the event loop; `export` has their last answer."""
        if self._gpus is not None:
            await self._gpus.refresh()

    def export(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        source, peers = self.registry, self._peers
        if peers is not None:
            source = CollectorRegistry()
            MultiProcessCollector(source, peers.folder)  # type: ignore[no-untyped-call]
            PlatformCollector(registry=source)
            source.register(ProcessesCollector(lambda: peers.pids))
        text = generate_latest(_WithAge(source))
        return text if self._gpus is None else text + generate_latest(self._gpus)


def _choose_storage(peers: Peers | None) -> None:
    """Keep the values in the peers' folder or, without peers, in this process.

    prometheus_client itself chooses only once, by its environment variable, at import.
    """
    if peers is None:
        values.ValueClass = values.MutexValue
    else:
        os.environ[FOLDER_VARIABLE] = str(peers.folder)
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


class _WithAge(Collector):
    """Exports the age of the oldest request in the queue, computed at each scrape."""

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        for family in self._source.collect():
            if family.name != PREFIX + "queue_oldest_since_seconds":
                yield family
                continue
            since = min(sample.value for sample in family.samples)
            yield GaugeMetricFamily(
                PREFIX + "queue_oldest_age_seconds",
                "How long the first of the waiting images has waited; 0 if none waits",
                value=0 if since == math.inf else max(0, time.time() - since),
            )
