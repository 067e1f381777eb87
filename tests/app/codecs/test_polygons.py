"""The polygons of a mask fill to the mask, and each is valid GeoJSON."""

import numpy as np
import pytest

from app.codecs import polygons
from app.codecs.polygons import PART_PIXELS, trace_polygons
from app.errors import TooCostly


def fill(rings, shape):
    """The pixels within an odd number of rings, by counting the vertical edges to their left."""
    crossings = np.zeros((shape[0], shape[1] + 1), np.uint8)
    for ring in rings:
        for (x, y), (next_x, next_y) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            assert (x == next_x) != (y == next_y), "an edge is horizontal or vertical"
            if x == next_x:
                crossings[min(y, next_y) : max(y, next_y), x] ^= 1
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1]


def area(ring):
    x, y = ring.T.astype(int)
    return (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2


def check(mask):
    traced = {own.index: own for own in trace_polygons(mask)}
    assert list(traced) == [index for index in np.unique(mask).tolist() if index]
    for index, own in traced.items():
        pixels = mask == index
        filled = sum(fill(rings, mask.shape).astype(int) for rings in own.polygons)
        assert np.array_equal(filled, pixels), "each pixel is in one polygon, once"
        assert own.pixels == pixels.sum()
        for outer, *holes in own.polygons:
            assert area(outer) > 0
            assert all(area(hole) < 0 for hole in holes)
            for ring in (outer, *holes):
                assert len(np.unique(ring, axis=0)) == len(ring), "a ring touches itself"


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 3), (4, 5), (5, 5)])
def test_small_noise_is_traced_exactly(shape):
    rng = np.random.default_rng(0)
    for classes in (1, 2, 2, 2, 3, 21):
        for _ in range(20):
            check(rng.integers(0, classes, shape).astype(np.uint8))


@pytest.mark.parametrize(
    "shape", [(60, 71), (1, 3000), (3000, 1), (2, PART_PIXELS // 2 + 3), (PART_PIXELS // 2 + 3, 2)]
)
def test_masks_of_one_class_and_of_blobs_are_traced_exactly(shape):
    check(np.full(shape, 8, np.uint8))
    check(np.zeros(shape, np.uint8))
    blobs = np.random.default_rng(1).integers(0, 3, (9, 9)).astype(np.uint8)
    y, x = (np.arange(side) * 9 // side for side in shape)
    check(blobs[np.ix_(y, x)])


def test_holes_islands_and_touching_corners():
    text = """
        11111110
        10000010
        10111010
        10101010
        10111010
        10000010
        11111101
        00000011
    """
    check(np.array([[int(c) for c in line] for line in text.split()], np.uint8))


def test_a_square_is_its_four_corners():
    mask = np.zeros((5, 6), np.uint8)
    mask[1:4, 2:5] = 15
    (traced,) = trace_polygons(mask)
    ((ring,),) = traced.polygons
    assert sorted(ring.tolist()) == [[2, 1], [2, 4], [5, 1], [5, 4]]


def test_the_cost_of_noise_is_limited(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 21, (1000, 1000)).astype(np.uint8)
    with pytest.raises(TooCostly, match="corners") as refused:
        list(trace_polygons(noise))
    assert "rle" in refused.value.remedy
    monkeypatch.setattr(polygons, "MAX_CORNERS", 3)
    mask = np.zeros((5, 6), np.uint8)
    mask[1:4, 2:5] = 15
    with pytest.raises(TooCostly):
        list(trace_polygons(mask))
