"""The table has each server's median."""

import pytest

from benchmarks.cost import Measured
from benchmarks.results import Load, Result
from benchmarks.sharing import OWN, SHARED, list_rows


def measure(throughput, p50_s, cpu_s):
    load = Load([Result(200, p50_s, 1 / throughput)], wall_s=10, client_cpu_s=1)
    return Measured(load, cpu_s, others_cpu_s=0)


def test_the_table_has_the_median_of_the_rounds():
    found = {(OWN, 2): [measure(10, 0.1, 0.09)]}
    found[SHARED, 2] = [measure(9, 0.11, 0.091), measure(8, 0.13, 0.093), measure(1, 0.12, 0.092)]
    rows = {row["server"]: row for row in list_rows(found)}
    assert list(rows) == [OWN, SHARED]
    assert rows[SHARED]["images/s, 2 callers"] == pytest.approx(8)
    assert rows[SHARED]["p50 ms, 2 callers"] == pytest.approx(120)
    assert rows[SHARED]["CPU ms per image, 2 callers"] == pytest.approx(92)
