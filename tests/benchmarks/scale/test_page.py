"""docs/scale.md has the tables of the results, which the simulation gives again."""

import pytest

from benchmarks.report import RESULTS, format_table
from benchmarks.scale.plots import IMAGES
from benchmarks.scale.stage_times import read_one_core, read_result, read_two_cores
from benchmarks.scale.validation import simulate_again, validate_two_cores
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "scale.md").read_text()
PROSE = " ".join(PAGE.split())
RESULT = read_result("scale")
TABLES = [name for name, rows in RESULT.items() if name == "rows" or name[0].isupper()]


@pytest.mark.parametrize("name", TABLES)
def test_the_page_has_the_table(name):
    assert format_table(RESULT[name]) in PAGE


def test_the_tables_are_those_that_the_command_wrote():
    assert len(TABLES) == 8
    written = (RESULTS / "scale.md").read_text()
    assert all(format_table(RESULT[name]) in written for name in TABLES)


def test_the_page_shows_each_plot():
    plots = {path.name for path in IMAGES.glob("scale-*.png")}
    assert plots == {"scale-curves.png", "scale-rates.png", "scale-zone.png"}
    assert all(f"](images/{name})" in PAGE for name in plots)


def test_the_assumptions_are_on_the_page():
    for name in ("price_per_core_hour", "gpu_images", "noticed_s", "replaced_s"):
        assert f"{RESULT[name]:g}" in PAGE.replace(",", "")


def is_close(ratio):
    return abs(ratio - 1) <= 0.15


def test_goodput_is_within_15_percent_and_the_page_says_where_p99_is_not():
    rows, others = RESULT["rows"], RESULT["Two cores of another machine"]
    assert all(is_close(row["ratio"]) for row in rows)
    assert sum(is_close(row["p99 ratio"]) for row in rows) == 10
    assert "within 15 % in 10 runs, and in the median over the runs of each load" in PROSE
    far = [row["load"] for row in RESULT["Medians"] if not is_close(row["p99 ratio"])]
    assert far == []
    far = [(row["load"], row["figure"]) for row in others if not is_close(row["ratio"])]
    assert far == [("1 caller", "p99 ms")]
    assert "that of one caller misses" in PROSE


def test_the_simulation_gives_the_published_validation_again():
    two_cores = RESULT["Two cores of another machine"]
    assert list(validate_two_cores(read_two_cores())) == [pytest.approx(row) for row in two_cores]


def test_one_measured_load_is_simulated_again():
    measured, published = read_result("curves")["rows"][0], RESULT["rows"][0]
    goodput, p99_s = simulate_again(read_one_core(), measured, seed=0)
    assert goodput == pytest.approx(published["simulated/s"], rel=0.01)
    assert 1000 * p99_s == pytest.approx(published["simulated ms"], rel=0.1)
