import numpy as np
import pytest

from model.confusion import ConfusionMatrix


def test_scores_are_counted_over_the_whole_set_without_void():
    rng = np.random.default_rng(0)
    targets = [rng.choice([0, 1, 2, 255], (7, 9)).astype(np.uint8) for _ in range(4)]
    masks = [rng.choice([0, 1, 3], (7, 9)).astype(np.uint8) for _ in range(4)]
    matrix = ConfusionMatrix(("a", "b", "c", "d", "never"))
    for target, mask in zip(targets, masks, strict=True):
        matrix.update(target, mask)
    scores = matrix.scores()

    target, mask = np.concatenate(targets), np.concatenate(masks)
    known = target != 255
    for index, name in enumerate("abcd"):
        hit = (target == index) & (mask == index) & known
        either = ((target == index) | (mask == index)) & known
        assert scores.iou[name] == pytest.approx(hit.sum() / either.sum())
    assert np.isnan(scores.iou["never"])
    assert scores.mean_iou == pytest.approx(np.mean([scores.iou[name] for name in "abcd"]))
    assert scores.pixel_accuracy == pytest.approx((target == mask)[known].mean())
    assert scores.images == 4
    assert scores.as_dict()["iou"]["never"] is None
    assert "mean IoU" in str(scores)
