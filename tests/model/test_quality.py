import json

import numpy as np
import pytest
from PIL import Image

from model import measured_card
from model.predictor import open_predictor
from model.quality import Quality, dilate, find_boundary
from model.training.voc import open_voc

CLASSES = ("background", "ship")


def square(offset=0):
    region = np.zeros((100, 120), np.uint8)
    region[20:60, 30 + offset : 70 + offset] = 1
    return region


def test_a_boundary_is_a_regions_outermost_pixels():
    boundary = find_boundary(square().astype(bool))
    assert boundary.sum() == 4 * 40 - 4
    assert boundary[20, 30]
    assert not boundary[21, 31]
    assert not find_boundary(np.ones((5, 5), bool)).any(), "the picture's edge is no boundary"


def test_dilation_reaches_so_many_rows_and_columns():
    pixels = np.zeros((9, 9), bool)
    pixels[4, 4] = True
    expected = np.zeros((9, 9), bool)
    expected[2:7, 2:7] = True
    assert np.array_equal(dilate(pixels, 2), expected)
    pixels[4, 4], pixels[0, 0] = False, True
    assert dilate(pixels, 3).sum() == 16


@pytest.mark.parametrize(("offset", "score"), [(0, 1.0), (1, 1.0), (20, None)])
def test_boundaries_count_within_a_share_of_the_diagonal(offset, score):
    """0.75 % of 156 pixels are 1 pixel."""
    quality = Quality(CLASSES)
    quality.add(square(), square(offset), np.ones((100, 120), np.float32))
    found = quality.compute_boundary_f()
    if score is None:
        assert 0.2 < found[1] < 0.7, "the horizontal edges overlap in part"
    else:
        assert found.tolist() == [score, score]


def test_the_boundary_iou_is_that_of_the_bands_inside_of_the_boundaries():
    """2 % of 156 pixels are 3 pixels: a ring of 40 x 40 without 34 x 34."""
    ring, moved = 40 * 40 - 34 * 34, np.zeros((100, 120), np.uint8)
    moved[20:60, 70:110] = 1  # beside the target
    target = square()
    quality = Quality(CLASSES)
    quality.add(target, target, np.ones(target.shape, np.float32))
    assert quality.compute_boundary_iou().tolist() == [1.0, 1.0]
    assert quality.bands[1].tolist() == [ring, ring]
    quality.add(target, moved, np.ones(target.shape, np.float32))
    assert quality.compute_boundary_iou()[1] == ring / (3 * ring)
    target = target.copy()
    target[20:23] = 255  # void: neither wanted nor a mistake
    quality = Quality(CLASSES)
    quality.add(target, square(), np.ones(target.shape, np.float32))
    both, either = quality.bands[1]
    assert (both, either) == (ring - 40 * 3, ring - 40 * 3 + 34 * 3)


def test_calibration_is_the_gap_between_confidence_and_accuracy():
    quality = Quality(CLASSES)
    target, mask = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    mask[:3] = 1  # 70 % right
    target[9] = 255
    confidence = np.full((10, 10), 0.9, np.float32)
    quality.add(target, mask, confidence)
    assert quality.calibration_error == pytest.approx(0.9 - 60 / 90, abs=1e-6)
    assert quality.confidence[:, 0].sum() == 90


def test_confusions_are_named_by_their_share():
    quality = Quality((*CLASSES, "quay"))
    target, mask = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    target[:4] = 1
    mask[:3] = 2
    quality.add(target, mask, np.ones((10, 10), np.float32))
    confusions = [("ship", "quay", 0.75), ("ship", "background", 0.25)]
    assert quality.rank_confusions(2) == quality.rank_confusions(9) == confusions


def test_a_perfect_network_confuses_nothing():
    quality = Quality(CLASSES)
    quality.add(square(), square(), np.ones((100, 120), np.float32))
    assert quality.rank_confusions(5) == []
    text = measured_card.describe(quality, curves=False)
    assert "No class is confused with another." in text
    assert "are called" not in text


def test_one_command_makes_a_whole_card(voc_folder, weights_file, tmp_path, capsys):
    measured_card.main(
        [str(weights_file), "--data", str(voc_folder), "--image-set", "val",
         "--output", str(tmp_path)]
    )  # fmt: skip
    text = (tmp_path / "card.md").read_text()
    report = json.loads((tmp_path / "card.json").read_text())
    predictor = open_predictor(weights_file)
    images = open_voc(voc_folder, "val")
    total = np.zeros((21, 21), np.int64)
    for image, target in map(images.read, range(4)):
        known = target != 255
        np.add.at(total, (target[known], predictor(image)[known]), 1)
    assert report["confusion"] == total.tolist()
    assert report["images"] == 4
    assert sum(row[0] for row in report["calibration"]) == total.sum()
    assert set(report["image_scores"]) == {f"val_{number:04d}" for number in range(4)}
    assert f"**{100 * report['mean_iou']:.1f}**" in text
    assert "of its pixels are called" in text
    for name in ("confusion", "calibration", "best", "worst"):
        assert f"]({name}.png)" in text
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert np.asarray(picture).std() > 5, "an empty picture"
    assert str(tmp_path / "card.md") in capsys.readouterr().out
