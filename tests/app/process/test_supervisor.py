"""A worker's first step, before it is a worker: the rest is tested on running programs."""

import os
import subprocess
import sys

from tests.conftest import REPOSITORY

CHILD = """
import sys
from app.process.supervisor import become_worker
become_worker(int(sys.argv[1]))
print("works")
"""


def start_child(supervisor):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(supervisor)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=True,
    ).stdout  # fmt: skip


def test_a_worker_whose_supervisor_has_died_already_ends():
    assert start_child(os.getpid()) == "works\n"
    assert start_child(os.getpid() + 1) == ""
