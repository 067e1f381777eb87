"""The metrics of GPUs, from a library with NVML's functions, as `pynvml` has them."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from prometheus_client import values
from prometheus_client.parser import text_string_to_metric_families

from app.observability import gpus
from app.observability.gpus import GpusCollector, LatestMetrics
from app.observability.metrics import FOLDER_VARIABLE, Metrics
from app.observability.peers import Peers
from tests.test_monitoring import OF_GPUS


class FakeNvml:
    """Two GPUs, of which the second does not tell its utilization."""

    class NVMLError(Exception):
        pass

    is_there = True

    def nvmlDeviceGetCount(self):  # noqa: N802, the library's names
        if not self.is_there:
            raise self.NVMLError
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):  # noqa: N802
        return number

    def nvmlDeviceGetMemoryInfo(self, gpu):  # noqa: N802
        return SimpleNamespace(used=1000 + gpu, total=5000)

    def nvmlDeviceGetUtilizationRates(self, gpu):  # noqa: N802
        if gpu == 1:
            raise self.NVMLError
        return SimpleNamespace(gpu=25)


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_and_utilization_are_exported_once(workers, tmp_path, monkeypatch):
    # With peers, prometheus_client's storage is another, for the whole process.
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    peers = Peers.create(tmp_path, workers=workers) if workers > 1 else None
    metrics = Metrics(peers, gpus=LatestMetrics(GpusCollector(FakeNvml())))
    asyncio.run(metrics.refresh())
    families = {
        family.name: family
        for family in text_string_to_metric_families(metrics.export().decode())
        if family.name.startswith(gpus.PREFIX)
    }
    assert {name: family.type for name, family in families.items()} == {
        name: kind for name, (kind, _) in OF_GPUS.items()
    }
    found = {
        (name, sample.labels["gpu"]): sample.value
        for name, family in families.items()
        for sample in family.samples
    }
    assert found == {
        ("seg_gpu_memory_used_bytes", "0"): 1000,
        ("seg_gpu_memory_used_bytes", "1"): 1001,
        ("seg_gpu_memory_bytes", "0"): 5000,
        ("seg_gpu_memory_bytes", "1"): 5000,
        ("seg_gpu_utilization_ratio", "0"): 0.25,
    }


def test_a_driver_that_stops_answering_takes_only_these_metrics_away():
    nvml = FakeNvml()
    metrics = Metrics(gpus=LatestMetrics(GpusCollector(nvml)))
    asyncio.run(metrics.refresh())
    assert "seg_gpu_memory_bytes{" in metrics.export().decode()
    nvml.is_there = False
    asyncio.run(metrics.refresh())
    text = metrics.export().decode()
    assert "seg_gpu_memory_bytes{" not in text
    assert "seg_ready 0.0" in text


class HangingNvml(FakeNvml):
    """Hangs in its first call, in a thread that is not the event loop's."""

    def __init__(self):
        self.asked_by = []
        self.goes_on = threading.Event()

    def nvmlDeviceGetCount(self):  # noqa: N802
        self.asked_by.append(threading.current_thread())
        assert self.goes_on.wait(600)
        return super().nvmlDeviceGetCount()


def test_a_driver_that_hangs_holds_one_thread_and_no_scrape():
    nvml = HangingNvml()
    latest = LatestMetrics(GpusCollector(nvml))

    async def scrape():
        for _ in range(3):
            await latest.refresh(patience_s=0)
            assert list(latest.collect()) == []
        nvml.goes_on.set()
        await latest.refresh(patience_s=600)

    asyncio.run(scrape())
    assert {family.name for family in latest.collect()} == set(OF_GPUS)
    assert len(nvml.asked_by) == 1
    assert nvml.asked_by[0] is not threading.current_thread()


def test_without_a_gpu_there_is_no_library(monkeypatch):
    def fail(name):
        raise ImportError(name)

    monkeypatch.setattr(gpus, "import_module", fail)
    assert gpus.find_gpus() is None
