"""What an ingress replica does besides the application; there is no cluster."""

import asyncio
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from benchmarks.ray_cluster import PATIENCE_S
from tests.conftest import REPOSITORY

pytest.importorskip("ray", reason="needs the extra ray")

from app.observability.metrics import Metrics
from app.ray.exporter import Gauges, exporting
from app.ray.ingress import log_failures


def test_a_cancelled_health_check_does_not_cancel_the_start(weights_file):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.app.ray.lone_ingress", weights_file],
        cwd=REPOSITORY, text=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "ready\n"), ended.stderr


def test_each_replica_that_did_not_reload_has_a_line_in_the_log():
    with capture_logs() as logs:
        log_failures([None, RuntimeError("The weights do not work."), None])
    assert [line["error"] for line in logs] == ["The weights do not work."]


class UnreadableMetrics:
    def __init__(self):
        self.exports = 0

    async def refresh(self):
        pass

    def export(self):
        self.exports += 1
        raise OSError("disk full")


def test_a_failed_export_is_logged_and_tried_again_at_the_end():
    async def export():
        async with exporting(metrics):
            await asyncio.sleep(0)  # lets the first export run
            assert metrics.exports == 1

    metrics = UnreadableMetrics()
    with capture_logs() as logs:
        asyncio.run(export())
    assert metrics.exports == 2
    assert [line["event"] for line in logs] == ["metrics not exported"] * 2


class RecordedGauge:
    """Keeps the last value of each series, as Ray's gauge does."""

    def __init__(self, name, documentation, tag_keys):
        self.values = {}

    def set(self, value, tags):
        self.values[tuple(tags.values())] = value


def test_after_a_reload_the_series_of_the_old_weights_is_zero():
    made = {}

    def make_gauge(name, *arguments, **options):
        made[name] = RecordedGauge(name, *arguments, **options)
        return made[name]

    metrics, gauges = Metrics(), Gauges(make_gauge)
    for digest in ("old", "new"):
        metrics.show_weights(digest=digest, engine="native")
        gauges.export(metrics)
    assert made["seg_model_info"].values == {("old", "native"): 0, ("new", "native"): 1}
