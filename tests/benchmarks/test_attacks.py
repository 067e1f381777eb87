"""The search for costly uploads makes a file of any choices, and measures what it costs."""

import random
from pathlib import Path

import pytest

from benchmarks import attack_files, attacks
from tests.app.corpus import ccitt_strips, picture, saved

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")


@pytest.mark.parametrize("kind", attacks.KNOBS)
def test_any_choices_make_a_file_that_is_measured(monkeypatch, kind):
    monkeypatch.setattr(
        attack_files, "SHAPES", ((40, 30), (200, 1), (1, 200), (7, 9), (9, 7), (1, 1))
    )
    rng = random.Random(1)
    for _ in range(4):
        choices = {knob: rng.randrange(count) for knob, count in attacks.KNOBS[kind].items()}
        data = attacks.make(kind, choices)
        cost = attacks.measure(data, 0)
        assert cost.bytes == len(data)
        assert cost.seconds > 0
        assert cost.outcome


def test_the_cost_is_the_files():
    small = attacks.measure(saved(picture(), "PNG"), 0)
    large = attacks.measure(saved(picture(3000, 2000), "PNG"), 0)
    assert large.outcome == "3000 x 2000"
    assert large.pixels == 6_000_000
    assert large.seconds > small.seconds
    assert 3 * large.pixels < large.memory_bytes < 20 * large.pixels


def test_a_decoder_that_was_ended_has_cost_what_it_may():
    cost = attacks.measure(ccitt_strips(rows=2_000_000, strips=2**12), 512)  # 1.24 s
    assert cost.outcome == "TooCostly"
    assert 1 < cost.seconds < 2


def test_the_search_keeps_the_worst(monkeypatch):
    monkeypatch.setattr(attacks, "make", lambda kind, choices: bytes(sum(choices.values())))
    costs = []

    def measure(data, side):
        costs.append(len(data))
        return attacks.Cost(len(data), len(data), 0, "", 1)

    monkeypatch.setattr(attacks, "measure", measure)
    (_, worst), tries = attacks.climb("GIF", attacks.GOALS["seconds"], seconds=0, seed=1)
    assert worst.seconds >= costs[0]
    assert tries == len(costs)
