"""The bounds of answers hold for the masks and photos that cost most, and are of use for others."""

import numpy as np
import pytest

from app.codecs.answers import make_answer
from app.codecs.bounds import bound_answer
from app.codecs.runs import count_runs
from app.errors import TooCostly
from app.formats import JPEG, PNG, AnswerFormat, AnswerOptions
from model.classes import CLASSES
from model.weights import Metadata

METADATA = Metadata(classes=CLASSES)
MANY = Metadata(classes=tuple(f'class "{number}" é' for number in range(255)))

SIZES = [(1, 1), (1, 7), (9, 1), (1, 40_000), (40_000, 1), (17, 23), (300, 301), (359, 361)]

OPTIONS = [
    AnswerOptions(format=AnswerFormat.OVERLAY, media_type=PNG),
    AnswerOptions(format=AnswerFormat.OVERLAY, media_type=JPEG),
    AnswerOptions(format=AnswerFormat.RLE),
    AnswerOptions(format=AnswerFormat.POLYGONS),
]


def draw_masks(size, classes):
    """Masks with as many outlines as possible: chessboards, stripes, noise, and one of two runs."""
    rows, columns = np.indices(size)
    noise = np.random.default_rng(0)
    yield (rows + columns) % 2
    yield (rows + columns) % classes
    yield rows % 2 * (classes - 1)
    yield columns % 2 * (classes - 1)
    yield (rows % 2) * (columns % 2)
    yield noise.integers(0, classes, size)
    yield noise.integers(0, 2, size) * (classes - 1)
    yield noise.choice([0, classes - 1], size, p=[0.9, 0.1])
    yield np.zeros(size)


def draw_photos(size):
    """Photos that compress least: noise of all values, and of the corners of the colour cube."""
    noise = np.random.default_rng(0)
    yield noise.integers(0, 256, (*size, 3))
    yield noise.integers(0, 2, (*size, 3)) * 255


@pytest.mark.parametrize("options", OPTIONS[:2], ids=("png", "jpeg"))
@pytest.mark.parametrize("size", SIZES)
def test_no_overlay_exceeds_its_bound(size, options):
    mask = np.zeros(size, np.uint8)
    for photo in draw_photos(size):
        made = make_answer(mask, options, METADATA, photo=photo.astype(np.uint8))
        assert made.held_bytes <= bound_answer(mask, options, METADATA)


@pytest.mark.parametrize("options", OPTIONS[2:], ids=("rle", "polygons"))
@pytest.mark.parametrize("metadata", [METADATA, MANY], ids=("voc", "many"))
@pytest.mark.parametrize("size", SIZES)
def test_no_outlines_exceed_their_bound(size, metadata, options):
    for drawn in draw_masks(size, len(metadata.classes)):
        mask = drawn.astype(np.uint8)
        bound = bound_answer(mask, options, metadata)
        try:
            assert make_answer(mask, options, metadata).held_bytes <= bound
        except TooCostly:
            assert options.format is AnswerFormat.POLYGONS


@pytest.mark.parametrize("size", SIZES)
def test_runs_are_counted_down_the_columns(size):
    for drawn in draw_masks(size, 3):
        values = drawn.T.ravel()
        assert count_runs(drawn) == 1 + np.count_nonzero(values[1:] != values[:-1])


def test_a_bound_is_not_much_more_than_the_worst_case():
    size = (359, 361)
    noise = np.random.default_rng(0).integers(0, 21, size).astype(np.uint8)
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    for options in OPTIONS[:3]:
        made = make_answer(noise, options, METADATA, photo=photo.copy())
        assert bound_answer(noise, options, METADATA) < 2 * made.held_bytes


def test_the_runs_of_an_ordinary_mask_have_a_small_bound():
    mask = np.zeros((5000, 5000), np.uint8)
    mask[1000:3000, 2000:4000] = 15
    assert bound_answer(mask, AnswerOptions(format=AnswerFormat.RLE), METADATA) < mask.size / 500


def test_any_polygons_have_a_bound_of_a_few_megabytes():
    mask = np.zeros((5000, 5000), np.uint8)
    assert bound_answer(mask, AnswerOptions(format=AnswerFormat.POLYGONS), METADATA) < 6 * 2**20
