import numpy as np
import pytest

from model import card
from model.weights import Metadata, write_weights


def test_a_card_has_the_metadata_of_the_file(tmp_path, capsys):
    metadata = Metadata(
        classes=("background", "ship"),
        recipe={
            "name": "default",
            "crop": [320, 320],
            "scale": [0.8, 2.2],
            "frozen": ["conv1", "bn1"],
            "class_weights": [],
        },
        data={"image_set": "train", "images": 9, "start": "nothing"},
        scores={
            "image_set": "val",
            "images": 3,
            "mean_iou": 0.4567,
            "pixel_accuracy": 0.9,
            "iou": {"background": 0.9, "ship": None},
        },
    )
    path = tmp_path / "w.safetensors"
    digest = write_weights(path, {"x": np.zeros(1, np.float32)}, metadata).digest
    card.main([str(path)])
    text = capsys.readouterr().out
    for part in (
        digest,
        "crop 320 x 320, scale 0.8 to 2.2, frozen conv1, bn1",
        "class_weights none",
        "9 images, list `train`",
        "**45.7 %**",
        "| ship | - |",
    ):
        assert part in text


def test_scores_may_lack_anything():
    """The metadata may have any scores: other programs write weights files, too."""
    for scores in ({"mean_iou": 0.5}, {"images": 3, "iou": {"ship": 0.25}}, {"iou": "high"}):
        text = card.describe_weights("w", Metadata(scores=scores))
        assert ("**50.0 %**" in text) == ("mean_iou" in scores)
        assert ("| ship | 25.0 |" in text) == ("images" in scores)
        assert "**- %**" in text or "mean_iou" in scores


def test_a_file_without_scores_has_a_card_too(weights_file, capsys):
    card.main([str(weights_file)])
    assert "mean IoU" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: nothing"):
        card.main(["nothing"])
