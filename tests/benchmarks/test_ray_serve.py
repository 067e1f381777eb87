"""The table has each service's median; Ray itself is tested in tests/app/ray."""

import pytest

from benchmarks.ray_serve import PLAIN, PLAIN_TWO, RAY, RAY_TWO, list_rows
from benchmarks.results import Load, Result


def make_load(*ends_s):
    return Load([Result(200, 0.5, end) for end in ends_s], wall_s=10, client_cpu_s=1)


def test_the_table_has_the_median_of_the_rounds():
    loads = {(name, 2): [make_load(1)] for name in (PLAIN, PLAIN_TWO, RAY_TWO)}
    loads[RAY, 2] = [make_load(1), make_load(0.25), make_load(0.5)]
    rows = {row["service"]: row for row in list_rows(loads)}
    assert list(rows) == [PLAIN, RAY, PLAIN_TWO, RAY_TWO]
    assert rows[RAY]["images/s, 2 callers"] == pytest.approx(2)
    assert rows[RAY]["p50 ms, 2 callers"] == pytest.approx(500)
