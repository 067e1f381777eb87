"""The figures of a run and their table; the commands are tested in tests/app."""

import os
import subprocess
import sys

import pytest

from benchmarks.bulk import OPTIONS, Figures, Plan, ProcessorTime, find_figures, list_rows, measure


def test_the_start_does_not_count_as_throughput():
    clock = ProcessorTime(samples=[(100.0, 0.0), (103.0, 1.0), (105.0, 3.0), (109.0, 9.0)])
    figures = find_figures(100.0, [105.0, 103.0, 104.0], clock)
    assert figures == Figures(start_s=3.0, start_cpu_s=1.0, throughput=1.0, cpu_ms=1000.0)


def test_the_table_has_the_median_of_the_rounds():
    starts = iter([*(1.0, 5.0, 1.0), *(1.0, 2.0, 1.0), *(1.0, 9.0, 1.0)])
    figures = measure(Plan(rounds=3), lambda _: Figures(next(starts), 0.5, 10.0, 90.0))
    rows = list_rows(figures)
    assert [row["command"] for row in rows] == list(OPTIONS)
    assert [row["s to the first mask"] for row in rows] == [1.0, 5.0, 1.0]
    assert {row["images/s"] for row in rows} == {10.0}


@pytest.mark.skipif(sys.platform != "linux", reason="reads the clocks of processes in /proc")
def test_the_processor_time_includes_processes_that_have_ended():
    """The child says when it has computed, so that it is sampled at its end."""
    work = "import time; until = 0.2; any(time.process_time() > until for _ in iter(int, 1))"
    clock = ProcessorTime()
    with clock.measuring():
        child = subprocess.Popen(
            [sys.executable, "-c", f"{work}; print(flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout.readline() == b"\n"
        clock.sample()
        child.communicate(b"\n")
        assert not os.path.exists(f"/proc/{child.pid}")
    assert clock.samples[-1][1] >= 0.2
