"""`fcn bulk --ray` on two nodes: every photo once, whatever ends a process or the whole run."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.ray_cluster import PATIENCE_S
from benchmarks.watch import ProcessTree
from model.predictor import open_predictor
from model.scaling import scale_to
from tests.app.cli.conftest import run_fcn
from tests.app.client.scripted import scripted
from tests.conftest import PHOTO, REPOSITORY

pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("pyarrow", reason="needs the extra bulk")

NAMES = [f"{number:02}.png" for number in range(12)]


@pytest.fixture
def photos(tmp_path):
    """A folder of twelve photos and a broken one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.open(PHOTO).resize((96 + number, 64)).save(folder / name)
    (folder / "broken.jpg").write_bytes(PHOTO.read_bytes()[:2000])
    return folder


@pytest.fixture
def start(cluster, photos, tmp_path, weights_file):
    """Starts the command, the same each time."""
    variables = {"RAY_ADDRESS": cluster.address, "SEG_WEIGHTS": str(weights_file)}
    variables |= {"SEG_DEVICE": "cpu", "SEG_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "app.cli", "bulk", photos, tmp_path / "out"]

    def start():
        return subprocess.Popen(
            [*command, "--part", "2", "--ray", "2"],
            cwd=REPOSITORY, env=os.environ | variables, text=True, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def test_a_server_that_refuses_ends_the_run_before_ray_is_asked(photos, tmp_path):
    with scripted((403, {}, b"")) as server:
        ended = run_fcn("bulk", photos, tmp_path / "out", "--ray", 1, "--url", server.address)
    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("The same command resumes from here.")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_missing_end_the_run_before_ray_is_asked(photos, tmp_path):
    ended = run_fcn("bulk", photos, tmp_path / "out", "--ray", 1, SEG_WEIGHTS="no such file")
    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("error: cannot compute here: no such file")


@pytest.mark.parametrize(
    ("text", "reason"), [("Traceback:\n  ...\nit is full\n", "it is full"), ("", "ConnectionError")]
)
def test_an_error_of_ray_is_told_in_one_line(text, reason):
    from app.cli.bulk_ray import tell_reason

    assert tell_reason(ConnectionError(text)) == reason


def wait_for(find):
    """Return what is found, asking ten times a second: a cluster has no event to wait for."""
    pause, until = threading.Event(), time.monotonic() + PATIENCE_S
    while not (found := find()):
        assert time.monotonic() < until
        pause.wait(0.1)
    return found


def list_descendants():
    """The ids of this process and of those that it started, asked again if one ends meanwhile."""
    while True:
        with suppress(OSError):
            return ProcessTree(os.getpid()).pids


def find_workers():
    """The ids of the processes that do parts on this test's cluster."""
    found = []
    for pid in list_descendants():
        with suppress(OSError):  # it has just ended
            text = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"ray::" in text and b"PartWorker" in text:
                found.append(pid)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_killed_process_and_a_killed_run_lose_nothing(start, photos, tmp_path, weights_file):
    out = tmp_path / "out"
    records = out / "_bulk" / "parts"

    killed = start()
    wait_for(lambda: records.is_dir() and any(records.iterdir()))
    killed.kill()
    killed.communicate()
    wait_for(lambda: not find_workers())
    before = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    assert len(before) < 7  # it was killed in the middle

    run = start()
    # Not a worker that is suspended first: Ray Data starts no other before it is ready.
    wait_for(lambda: len(list(records.iterdir())) > len(before) or run.poll() is not None)
    for worker in find_workers()[:1]:
        with suppress(ProcessLookupError):  # the run has ended before
            os.kill(worker, signal.SIGKILL)
    _, told = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 1, told  # one photo is broken
    assert "Dataset" not in told, "Ray Data writes nothing between the lines of the command"

    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(records.iterdir())) == 7
    predict = open_predictor(weights_file, device="cpu", scaling=scale_to(1024))
    for name in NAMES:
        mask = np.asarray(Image.open(out / f"{name}.png"))
        assert (mask == predict(np.asarray(Image.open(photos / name).convert("RGB")))).all()
    assert (out / "failures.txt").read_text().startswith("broken.jpg\tThe image cannot be decoded")
    assert not (out / "_bulk" / "unfinished").exists()

    _, told = start().communicate(timeout=PATIENCE_S)
    assert "0 written, 13 done before, 1 failed" in told
