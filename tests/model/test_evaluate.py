import json

import numpy as np
import pytest

from model import evaluate
from model.network import FCN
from model.predictor import open_predictor
from model.state_dict import list_tensors
from model.training.voc import open_voc
from model.weights import Metadata, write_weights


def test_evaluation_writes_the_scores_of_whole_images(voc_folder, weights_file, tmp_path, capsys):
    report, figure = tmp_path / "scores.json", tmp_path / "samples.png"
    evaluate.main(
        ["--data", str(voc_folder), "--image-set", "val", "--weights", str(weights_file),
         "--json", str(report), "--output", str(figure)]
    )  # fmt: skip
    scores = json.loads(report.read_text())

    predictor = open_predictor(weights_file)
    images = open_voc(voc_folder, "val")
    pairs = [images.read(index) for index in range(len(images))]
    target = np.concatenate([t.ravel() for _, t in pairs])
    mask = np.concatenate([predictor(image).ravel() for image, _ in pairs])
    known = target != 255
    ious = []
    for index, name in enumerate(predictor.metadata.classes):
        union = ((target == index) | (mask == index)) & known
        if union.any():
            hits = (target == index) & (mask == index)
            ious.append(hits.sum() / union.sum())
            assert scores["iou"][name] == pytest.approx(ious[-1], abs=1e-6)
        else:
            assert scores["iou"][name] is None
    assert scores["mean_iou"] == pytest.approx(np.mean(ious), abs=1e-6)
    assert scores["pixel_accuracy"] == pytest.approx((target == mask)[known].mean(), abs=1e-6)
    assert scores["images"] == 4
    assert scores["weights"] == predictor.metadata.digest
    assert figure.read_bytes().startswith(b"\x89PNG")
    table = capsys.readouterr().out
    assert "mean IoU" in table
    assert "pottedplant" in table


def test_masks_of_other_classes_are_named(voc_folder, tmp_path):
    tensors = list_tensors(FCN(num_classes=2))
    write_weights(tmp_path / "w", tensors, Metadata(classes=("background", "ship")))
    with pytest.raises(
        SystemExit, match=r"(?s)error: 4 of 4 .*\.png has the class index .*2 classes"
    ):
        evaluate.main(["--data", str(voc_folder), "--weights", str(tmp_path / "w")])


@pytest.mark.parametrize(
    "options", [("--flip", "--engine", "native"), ("--scales", "0.5", "--precision", "bfloat16")]
)
def test_averages_are_of_pytorch_in_float32_alone(voc_folder, weights_file, options):
    with pytest.raises(SystemExit, match=r"error: --scales and --flip average .* leave these"):
        evaluate.main(["--data", str(voc_folder), "--weights", str(weights_file), *options])


def test_wrong_input_ends_with_one_line(voc_folder, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*expected a weights file"):
        evaluate.main(["--data", str(voc_folder), "--weights", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match=r"error: .*is not there"):
        evaluate.main(["--data", str(tmp_path)])
