"""A soak finds no lost and no wrong response, and reads errors from the log."""

import numpy as np

from benchmarks.callers import LAST, SLOW, Leaving
from benchmarks.process import find_errors
from benchmarks.requests import write_two_weights
from benchmarks.results import count_outcomes
from benchmarks.soak import Plan, run_soak
from benchmarks.watch import DESCRIPTORS, RESIDENT, plot
from model.predictor import open_predictor


def test_a_short_soak_loses_nothing_and_gets_nothing_wrong(tmp_path):
    soak = run_soak(Plan.make_quick())
    assert soak.list_failures() == []
    assert soak.held == {}
    assert soak.exit_status == 0
    assert soak.reloads
    rows = {row["caller"]: row for row in count_outcomes(soak.load.results)}
    assert set(Leaving) | {SLOW, LAST, "overload"} <= set(rows)
    assert rows["keeps its connection"]["mask"] > 0
    assert rows["keeps its connection"]["refused"] == 0
    assert rows["broken images, kept connection"]["refused"] > 0
    assert rows["broken images, kept connection"]["mask"] == 0
    assert {trend["value"] for trend in soak.trends} >= {RESIDENT, DESCRIPTORS}
    plot(tmp_path / "soak.png", soak.watch.samples, spans=soak.overloads, events=[1.0])
    assert (tmp_path / "soak.png").stat().st_size > 1000


def test_errors_are_found_in_a_log():
    fine, bad = '{"level": "warning"}', '{"level": "error"}'
    assert find_errors(f"{fine}\n{bad}\nTraceback\n") == [bad, "Traceback"]


def test_the_two_weights_give_different_masks_everywhere(tmp_path, photo):
    files = write_two_weights(tmp_path)
    shipped, rotated = (open_predictor(file, device="cpu")(photo) for file in files)
    assert not np.any(shipped == rotated)
