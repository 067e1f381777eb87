"""The search for costly uploads makes a file for any choices and measures what it costs."""

import itertools
import random
from pathlib import Path

import pytest

from app.codecs import decoder_process
from benchmarks import attack_files, attack_tiffs, attacks
from benchmarks.attack_costs import Cost
from tests.app.corpus import ccitt_strips, picture, saved

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@pytest.mark.parametrize("kind", attacks.FIELDS)
def test_any_choices_make_a_file_that_is_measured(monkeypatch, kind):
    monkeypatch.setattr(
        attack_files, "SHAPES", ((40, 30), (200, 1), (1, 200), (7, 9), (9, 7), (1, 1))
    )
    rng = random.Random(1)
    for _ in range(4):
        choices = {field: rng.randrange(count) for field, count in attacks.FIELDS[kind].items()}
        data = attacks.make(kind, choices)
        cost = attacks.measure(data, 0)
        assert cost.bytes == len(data)
        assert cost.seconds > 0
        assert cost.outcome


def test_the_search_climbs_to_the_costliest_file_and_shares_it_among_the_goals(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(attacks.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(attacks, "make", lambda _, choices: choices)
    monkeypatch.setattr(
        attacks, "measure", lambda made, _: Cost(1, sum(made.values()), 0, 0, "", 1)
    )
    search = attacks.Search("TIFF", seed=0)
    choices, cost = search.run(attacks.GOALS["seconds"], seconds=1000)
    assert choices == {field: count - 1 for field, count in attacks.FIELDS["TIFF"].items()}
    assert cost.seconds == sum(choices.values())
    tries = len(search.tried)
    assert search.run(lambda other: -other.seconds, seconds=0)[1].seconds < cost.seconds
    assert len(search.tried) == tries


def test_a_thin_progressive_jpeg_of_many_bytes_a_pixel_is_made(monkeypatch):
    monkeypatch.setattr(attack_files, "SHAPES", ((1, 60_000),))
    choices = dict.fromkeys(attacks.FIELDS["JPEG"], 0)
    data = attacks.make("JPEG", choices | {"mode": 2, "progressive": 1, "noise": 1, "restarts": 1})
    assert len(data) > 2 * 60_000


def test_the_tiffs_of_every_mode_that_pillow_compresses_can_be_decoded(monkeypatch):
    monkeypatch.setattr(attack_files, "SHAPES", ((40, 30),))
    choices = dict.fromkeys(attacks.FIELDS["TIFF"], 0)
    for mode in range(len(attack_tiffs.MODES) - 1):  # the last is unknown
        for content in (0, 1):
            data = attacks.make("TIFF", choices | {"mode": mode, "compression": 4, "strips": 1})
            assert attacks.measure(data, 0).outcome == "40 x 30", (mode, content)
    for compression in range(12):
        mode = 0 if attack_tiffs.TIFF_COMPRESSIONS[compression] in attack_tiffs.FAXES else 3
        data = attacks.make("TIFF", choices | {"mode": mode, "compression": compression})
        assert attacks.measure(data, 0).outcome == "40 x 30", compression


def test_files_at_the_limits_are_made_and_measured():
    files = dict(attack_files.make_files_at_limits(side=40, size_bytes=2**14))
    costs = {name: attacks.measure(data, 0) for name, data in files.items()}
    assert len(files) == 11
    assert all("megapixels" in name or len(data) <= 2**14 + 2000 for name, data in files.items())
    outcomes = [cost.outcome for name, cost in costs.items() if "megapixels" in name]
    assert outcomes == ["40 x 40"] * 8
    assert all(cost.seconds > 0 for cost in costs.values())


def test_a_refused_file_has_a_problem_for_its_outcome_and_no_pixels():
    cost = attacks.measure(b"no image", 0)
    assert (cost.outcome, cost.pixels) == ("unsupported-type", 0)
    row = attacks.describe("corpus", "memory", "a file", cost)
    assert (row["file"], row["outcome"]) == ("a file", "unsupported-type")


def test_the_cost_is_that_of_the_file_alone():
    small = attacks.measure(saved(picture(), "PNG"), 0)
    large = attacks.measure(saved(picture(3000, 2000), "PNG"), 0)
    assert large.outcome == "3000 x 2000"
    assert large.pixels == 6_000_000
    assert large.seconds > small.seconds
    assert 3 * large.pixels < large.memory_bytes < 20 * large.pixels


def test_a_file_that_exceeds_the_time_limit_costs_that_limit(monkeypatch):
    """The estimate would refuse this file before it is decoded, so it is switched off here."""
    path = "import sys; sys.path[:] = sys.argv[1:]; from app.codecs import decoder"
    no_estimate = "decoder.require_modest, decoder.WALL_FACTOR = lambda *_, **__: None, 1000"
    monkeypatch.setattr(decoder_process, "PROGRAM", f"{path}; {no_estimate}; decoder.main()")
    # The limit is 2.2 s. The file needs many times that.
    cost = attacks.measure(ccitt_strips(rows=10_000_000, strips=2**12), 512)
    assert cost.outcome == "too-costly"
    assert cost.seconds > 1
    assert cost.log_lines == 0


def test_lines_that_a_decoder_writes_are_counted_where_they_reach_the_log(monkeypatch):
    """The server discards a decoder's output. Without that, the lines are counted."""
    assert attacks.measure(fax(), 0).log_lines == 0
    monkeypatch.setattr(decoder_process.subprocess, "DEVNULL", None)
    cost = attacks.measure(fax(), 0)
    assert cost.outcome == "1000 x 1"
    assert cost.log_lines > 100


def fax():
    return ccitt_strips(rows=1000, strips=1, shared=False)
