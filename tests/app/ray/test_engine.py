"""How an engine replica ends and fails; there is no cluster."""

import subprocess
import sys

import pytest

from app.process.ending import EXIT_DEAD, EXIT_DEVICE_LOST
from benchmarks.ray_cluster import PATIENCE_S
from tests.conftest import REPOSITORY

pytest.importorskip("ray", reason="needs the extra ray")


def run(weights, command):
    return subprocess.run(
        [sys.executable, "-m", "tests.app.ray.lone_engine", weights, command],
        cwd=REPOSITORY, text=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "status"), [("STUCK", EXIT_DEAD), ("LOSE_DEVICE", EXIT_DEVICE_LOST)]
)
def test_an_engine_that_cannot_be_recovered_ends_its_process(weights_file, command, status):
    """Ray tells the ingress replicas, which give its images to others."""
    ended = run(weights_file, command)
    assert ended.returncode == status, ended.stderr


def test_a_failure_crosses_to_another_process(weights_file):
    ended = run(weights_file, "RAISE")
    assert ended.returncode == 0, ended.stderr
    assert "EngineError('The engine failed on this image.')" in ended.stdout
