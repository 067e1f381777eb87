"""What the memory benchmark reads from the kernel is so."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.memory import MIB, ProcessTree, disk_bytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")

# Each line that it reads is a command; it answers when it has done it.
PROGRAM = """
import sys, subprocess
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
for command in sys.stdin:
    exec(command)
    print("done", flush=True)
"""

SPIN = "import time as t; u = t.process_time() + 0.05; all(iter(lambda: t.process_time() < u, 0))"


@contextmanager
def program():
    """A function that makes the program do something, its process, and its child's id."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())

    def do(command):
        process.stdin.write(command + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    try:
        yield do, process.pid, child
    finally:
        subprocess.run(["kill", str(child)], check=True)
        process.kill()
        process.communicate()


def test_the_peak_is_that_since_it_was_reset():
    with program() as (do, pid, _):
        tree = ProcessTree(pid)
        do("block = bytearray(100 * 2**20); del block")
        assert tree.peak_bytes() - tree.resident_bytes() > 90 * MIB
        tree.reset_peak()
        assert tree.peak_bytes() - tree.resident_bytes() < 10 * MIB


def test_children_and_their_processor_time_count():
    with program() as (do, pid, child):
        tree = ProcessTree(pid)
        assert tree.pids == [pid, child]
        before = tree.cpu_s()
        do(SPIN)
        assert tree.cpu_s() - before >= 0.05


def test_a_file_with_two_names_takes_its_space_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * MIB)
    once = disk_bytes(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert once >= MIB
    assert disk_bytes(tmp_path) == once
