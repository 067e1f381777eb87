"""A server that has one core for itself is measured against the offered load."""

import os

import pytest

from benchmarks.connection import upload_request
from benchmarks.cost import read_busy_s
from benchmarks.curves import STAGES, Curves, Plan, describe_sample, start_server
from benchmarks.photos import SOURCE
from benchmarks.process import OUR_PATH
from benchmarks.results import Result


def test_a_round_has_the_loads_and_the_stages_of_a_server_on_its_own_core():
    mine = os.sched_getaffinity(0)
    core = min(mine)
    plan = Plan(calibration_s=0.2, requests=2, least_s=0.2, loads=(0.5,), callers=(1, 2))
    with start_server(core) as server:
        assert os.sched_getaffinity(server.process.pid) == {core}
        assert os.sched_getaffinity(0) == (mine - {core} or mine)
        curves = Curves(plan, server, [upload_request(OUR_PATH, SOURCE.read_bytes())])
        curves.take_round(seed=0)
    assert os.sched_getaffinity(0) == mine
    (row,) = curves.open
    assert row["offered/s"] == 0.5 * curves.capacity
    assert row["server's CPU ms an answer"] > 0
    assert [row["callers"] for row in curves.closed] == [1, 2]
    assert all(len(sample.split()) == len(STAGES) + 1 for sample in curves.samples)


def test_a_sample_has_the_work_of_the_stages_and_all_the_rest():
    timing = "accept;dur=0.5, decode;dur=3.0, queue;dur=1, inference;dur=50.0, encode;dur=0.5"
    result = Result(200, 0.056, 0, server_timing=timing)
    assert describe_sample(result) == "3.00 50.00 0.50 2.50"


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's /proc/stat")
def test_the_time_in_which_cores_are_busy_grows_with_the_cores():
    cores = os.sched_getaffinity(0)
    assert 0 < read_busy_s({min(cores)}) <= read_busy_s(cores)
