"""The kernel's figures of a process, and their trends over time."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.memory import measure_disk_bytes
from benchmarks.watch import GROWS, MIB, RESIDENT, ProcessTree, Sample, Watch, describe_trend

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")

# It executes each line that it reads, and then prints "done".
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
    """A function that runs a command in the program, the program's id, and its child's id."""
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
        assert tree.measure_peak_bytes() - tree.measure_resident_bytes() > 90 * MIB
        tree.reset_peak()
        assert tree.measure_peak_bytes() - tree.measure_resident_bytes() < 10 * MIB


def test_children_and_their_processor_time_count():
    with program() as (do, pid, child):
        tree = ProcessTree(pid)
        assert tree.pids == [pid, child]
        before = tree.measure_cpu_s()
        do(SPIN)
        assert tree.measure_cpu_s() - before >= 0.05


def test_a_file_with_two_names_takes_its_space_once(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * MIB)
    once = measure_disk_bytes(tmp_path)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert once >= MIB
    assert measure_disk_bytes(tmp_path) == once


@pytest.mark.parametrize(
    ("values", "every_s", "verdict"),
    [
        ([100.0 + i for i in range(100)], 10, GROWS),
        ([100.0 + i for i in range(100)], 1, "too short to tell"),
        ([0.0, 50.0, *[100.0, 120.0] * 50], 10, "flat"),
        ([200.0 - i for i in range(100)], 10, "flat"),
    ],
)
def test_growth_is_told_from_noise_and_from_the_first_minutes(values, every_s, verdict):
    loaded = [Sample(every_s * i, {RESIDENT: value}, i) for i, value in enumerate(values)]
    trend = describe_trend(RESIDENT, Sample(0, {RESIDENT: 90.0}, 0), loaded, loaded[-1])
    assert trend["verdict"] == verdict
    assert trend["peak"] == max(values)
    assert trend["start"] == 90
    if verdict == GROWS:
        assert trend["slope per hour"] == pytest.approx(360)


def test_a_process_that_has_ended_is_noticed():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
        Watch(process.pid, count_ended=lambda: 0).take_sample()
