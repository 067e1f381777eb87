"""The weights in the repository: whole, described, and as good as their card says."""

import numpy as np
import pytest

from model.class_list import VOC
from model.predictor import open_predictor
from model.scaling import SERVED, Scaling
from model.training import voc
from model.training.validation import evaluate
from model.weights import SHIPPED_WEIGHTS, read_metadata
from tests.conftest import REPOSITORY, SHARED

CARD = (SHIPPED_WEIGHTS.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def predictor():
    return open_predictor(SHIPPED_WEIGHTS, scaling=SERVED)


def test_the_cat_of_the_test_photo_is_found(predictor, photo):
    mask = predictor(photo)
    cat = predictor.metadata.classes.index("cat")
    assert 0.3 < np.mean(mask == cat) < 0.9
    assert mask[150, 200] == cat, "the middle of its face"
    assert mask[5, 440] == 0, "the room behind it"


def test_the_card_has_the_figures_of_the_file():
    metadata = read_metadata(SHIPPED_WEIGHTS)
    assert metadata.digest in CARD
    assert f"{100 * metadata.scores['mean_iou']:.1f} %" in CARD
    assert f"{100 * metadata.scores['pixel_accuracy']:.1f} %" in CARD
    for name, iou in metadata.scores["iou"].items():
        assert f"| {name} | {100 * iou:.1f} |" in CARD
    readme = (REPOSITORY / "README.md").read_text()
    assert f"{100 * metadata.scores['mean_iou']:.1f} %" in readme


def test_the_file_is_of_a_size_that_a_repository_bears():
    assert SHIPPED_WEIGHTS.stat().st_size < 50 * 2**20


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the VOC images, which we may not ship")
def test_the_scores_are_those_of_the_holdout_images():
    published = read_metadata(SHIPPED_WEIGHTS).scores
    scaling = Scaling(published["max_side"], published["unscaled_side"])
    predictor = open_predictor(SHIPPED_WEIGHTS, scaling=scaling)
    samples = voc.list_samples(SHARED, "holdout")
    scores = evaluate(predictor, (sample.read(VOC) for sample in samples))
    assert scores.mean_iou == pytest.approx(published["mean_iou"], abs=0.001)
    assert scores.mean_iou >= 0.40
    assert scores.images == published["images"] == 400
