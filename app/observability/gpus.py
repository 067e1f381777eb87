"""The GPUs' memory and utilization, as NVIDIA's management library (NVML) tells them.

Without a GPU, its driver or the package nvidia-ml-py there are no such metrics. They are of the
whole GPU: of all processes that use it. Knows nothing of the engine.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

PREFIX = "seg_gpu_"

PATIENCE_S = 1.0
"""The longest that a scrape waits for NVML, whose calls may hang with a broken GPU."""


def find_gpus() -> "LatestMetrics | None":
    """Start NVML; return None where it does not work."""
    with suppress(Exception):  # no package, no driver or no GPU: each says so in its own way
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        return LatestMetrics(GpusCollector(nvml))
    return None


class GpusCollector(Collector):
    """Asks NVML at each scrape; what it does not answer is left out."""

    def __init__(self, nvml: Any) -> None:
        """`nvml` has the functions of the module `pynvml`."""
        self._nvml = nvml

    def collect(self) -> Iterable[Metric]:
        used = _gauge("memory_used_bytes", "Memory of the GPU that is used")
        total = _gauge("memory_bytes", "Memory of the GPU")
        busy = _gauge("utilization_ratio", "Share of the last moment in which the GPU worked")
        for name, gpu in self._find():
            with suppress(self._nvml.NVMLError):
                memory = self._nvml.nvmlDeviceGetMemoryInfo(gpu)
                used.add_metric([name], memory.used)
                total.add_metric([name], memory.total)
            with suppress(self._nvml.NVMLError):  # a part of a GPU (MIG) does not know it
                busy.add_metric([name], self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        return used, total, busy

    def _find(self) -> Iterator[tuple[str, Any]]:
        with suppress(self._nvml.NVMLError):
            for number in range(self._nvml.nvmlDeviceGetCount()):
                yield str(number), self._nvml.nvmlDeviceGetHandleByIndex(number)


class LatestMetrics(Collector):
    """What a slow collector answered last. One thread at most asks it."""

    def __init__(self, source: Collector) -> None:
        self._source = source
        self._latest: list[Metric] = []
        self._asked: asyncio.Future[None] | None = None

    def collect(self) -> Iterable[Metric]:
        return self._latest

    async def refresh(self, *, patience_s: float = PATIENCE_S) -> None:
        """Ask, and wait for the answer. If it takes too long there is none."""
        if self._asked is None or self._asked.done():
            loop = asyncio.get_running_loop()
            self._asked = loop.create_future()
            # A daemon: one that hangs must not keep the process alive.
            threading.Thread(target=self._ask, args=(loop, self._asked), daemon=True).start()
        await asyncio.wait([self._asked], timeout=patience_s)
        if not self._asked.done():
            self._latest = []

    def _ask(self, loop: asyncio.AbstractEventLoop, asked: "asyncio.Future[None]") -> None:
        try:
            self._latest = list(self._source.collect())
        finally:
            with suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(asked.set_result, None)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=["gpu"])
