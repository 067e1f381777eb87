"""The table has each server's median."""

import pytest

from benchmarks.sharing import OWN, SHARED, Figures, Plan, list_rows


def test_the_table_has_the_median_of_the_rounds():
    figures = {(OWN, 2): [Figures(10, 100, 90)]}
    figures[SHARED, 2] = [Figures(9, 110, 91), Figures(8, 130, 93), Figures(1, 120, 92)]
    rows = {row["server"]: row for row in list_rows(figures, Plan(callers=(2,)))}
    assert list(rows) == [OWN, SHARED]
    assert rows[SHARED]["images/s, 2 callers"] == pytest.approx(8)
    assert rows[SHARED]["p50 ms, 2 callers"] == pytest.approx(120)
    assert rows[SHARED]["CPU ms per image, 2 callers"] == pytest.approx(92)
