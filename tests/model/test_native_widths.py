"""The native engine with vectors of four floats, as on NEON, on other processors."""

import os

import pytest

from tests.native.__main__ import Unavailable, find_neon, list_widths, run


def test_with_neons_width_every_property_holds():
    try:
        (variant, *_) = list_widths()
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert "SIMD width 4: 5 rounds and the engine hold" in run(variant, seed=2, rounds=5)


@pytest.mark.skipif(
    "NATIVE_MAX_KIND" in os.environ, reason="the emulator is the same for every kind of processor"
)
def test_with_neon_under_an_emulator_every_property_holds():
    try:
        variant = find_neon()
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert "SIMD width 4: 2 rounds and the engine hold" in run(variant, seed=3, rounds=2)
