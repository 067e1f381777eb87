"""Processes that benchmarks start."""

import subprocess
import sys

import pytest

from benchmarks.photos import make_photos
from benchmarks.process import start_worker
from tests.conftest import REPOSITORY

KILLED = """
import os, sys
from benchmarks.process import start_worker
if __name__ == "__main__":
    with start_worker() as call:
        print(call(os.getpid), flush=True)
        sys.stdin.read()
"""


def test_a_worker_makes_calls_and_tells_of_errors():
    with start_worker() as call:
        assert call(make_photos, 1) == make_photos(1)
        with pytest.raises(ZeroDivisionError):
            call(divmod, 1, 0)


def test_a_worker_ends_when_its_parent_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=REPOSITORY,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert int(parent.stdout.readline()) != parent.pid
    parent.kill()
    parent.communicate(timeout=120)  # its output is open for as long as the worker has it, too
