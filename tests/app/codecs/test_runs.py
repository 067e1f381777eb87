"""COCO's run lengths are those of pycocotools."""

import numpy as np
import pytest

from app.codecs.runs import PART_PIXELS, encode_runs

coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")

SHAPES = [
    (1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (300, 451), (1, PART_PIXELS + 7), (PART_PIXELS + 7, 1),
    (3, PART_PIXELS // 2), (PART_PIXELS // 2, 3), (513, 700),
]  # fmt: skip


def assert_equal_to_pycocotools(mask):
    runs = {own.index: own for own in encode_runs(mask)}
    assert list(runs) == [index for index in np.unique(mask).tolist() if index]
    for index, own in runs.items():
        pixels = mask == index
        expected = coco.encode(np.asfortranarray(pixels.astype(np.uint8)))
        assert own.counts == expected["counts"].decode()
        assert own.pixels == pixels.sum() == coco.area(expected)
        assert list(own.box) == coco.toBbox(expected).tolist()
        decoded = coco.decode({"size": list(mask.shape), "counts": own.counts})
        assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("classes", [1, 2, 21])
def test_the_runs_of_noise_are_those_of_pycocotools(shape, classes):
    noise = np.random.default_rng(0).integers(0, classes, shape).astype(np.uint8)
    assert_equal_to_pycocotools(noise)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_runs_of_a_single_class_are_those_of_pycocotools(shape):
    mask = np.full(shape, 8, np.uint8)
    assert_equal_to_pycocotools(mask)
    mask[0, 0] = 3
    assert_equal_to_pycocotools(mask)
    mask[:] = 0
    assert_equal_to_pycocotools(mask)
    mask[-1, -1] = 254
    assert_equal_to_pycocotools(mask)


def test_long_runs_take_several_characters():
    mask = np.zeros((4000, 5000), np.uint8)
    mask[:, 2000:4500] = 1
    assert_equal_to_pycocotools(mask)
