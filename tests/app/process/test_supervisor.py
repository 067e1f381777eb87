"""The first step of a worker. Tests of running programs cover the rest."""

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


def test_a_worker_ends_if_its_supervisor_has_already_died():
    assert start_child(os.getpid()) == "works\n"
    assert start_child(os.getpid() + 1) == ""
