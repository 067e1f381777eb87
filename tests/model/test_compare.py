import json

import numpy as np
import pytest
import torch

from model import compare
from model.comparison import compare_counts
from model.network import FCN
from model.state_dict import list_tensors
from model.weights import Metadata, write_weights


def counts_of(accuracies, *, seed=0):
    """Confusion matrices of two classes, whose pixels are correct with these probabilities."""
    rng = np.random.default_rng(seed)
    hits = rng.binomial(1000, np.clip(accuracies, 0, 1), size=(2, len(accuracies))).T
    wrong = 1000 - hits
    return np.stack(
        [np.stack([hits[:, 0], wrong[:, 0]], 1), np.stack([wrong[:, 1], hits[:, 1]], 1)], 1
    )


def test_a_gain_on_every_image_is_significant():
    """Images differ far more than the networks do, but the comparison is paired."""
    accuracies = np.random.default_rng(1).uniform(0.3, 0.9, 60)
    *classes, mean = compare_counts(counts_of(accuracies), counts_of(accuracies + 0.03, seed=2))
    assert mean.verdict == "better"
    assert 0 < mean.low < mean.gain < mean.high < 0.1
    assert mean.first == pytest.approx(np.mean([difference.first for difference in classes]))
    (*_, mean) = compare_counts(counts_of(accuracies + 0.03, seed=2), counts_of(accuracies))
    assert mean.verdict == "worse"


def test_a_gain_on_a_single_image_is_not_significant():
    """A single image decides, so the interval is wide."""
    accuracies = np.full(20, 0.7)
    lucky = accuracies.copy()
    lucky[3] = 0.99
    lucky[4] = 0.55
    *_, mean = compare_counts(counts_of(accuracies), counts_of(lucky))
    assert mean.gain > 0
    assert mean.verdict == "undecided"


def test_few_images_decide_nothing():
    """The interval of a single image has no width, so any gain would be significant."""
    for images, verdict in ((1, "undecided"), (9, "undecided"), (10, "better")):
        differences = compare_counts(
            counts_of(np.full(images, 0.3)), counts_of(np.full(images, 0.9))
        )
        assert {difference.verdict for difference in differences} == {verdict}
        rows = dict(zip(("background", "coin", "mean IoU"), differences, strict=True))
        assert ("fewer than 10 images" in compare.describe(rows, images=images)) == (images < 10)


def test_the_interval_is_that_of_resampled_images():
    """Compared with a plain bootstrap."""
    first = counts_of(np.linspace(0.4, 0.9, 15))
    second = counts_of(np.linspace(0.6, 0.8, 15), seed=5)

    def mean_iou(counts):
        total = counts.sum(axis=0)
        hits = np.diag(total)
        return np.mean(hits / (total.sum(0) + total.sum(1) - hits))

    rng = np.random.default_rng(9)
    gains = []
    for _ in range(4000):
        drawn = rng.integers(0, 15, 15)
        gains.append(mean_iou(second[drawn]) - mean_iou(first[drawn]))
    *_, mean = compare_counts(first, second)
    assert mean.gain == pytest.approx(mean_iou(second) - mean_iou(first))
    spread = np.std(gains)
    assert mean.low == pytest.approx(np.percentile(gains, 2.5), abs=0.2 * spread)
    assert mean.high == pytest.approx(np.percentile(gains, 97.5), abs=0.2 * spread)


def test_a_class_that_occurs_nowhere_has_no_figures():
    counts = np.zeros((5, 3, 3), np.int64)
    counts[:, :2, :2] = counts_of(np.full(5, 0.5))
    *classes, mean = compare_counts(counts, counts)
    assert np.isnan(classes[2].gain)
    assert classes[2].as_dict()["first"] is None
    assert mean.gain == mean.low == mean.high == 0


@pytest.fixture(scope="module")
def background_file(tmp_path_factory):
    """Weights that predict background everywhere."""
    network = FCN()
    torch.nn.init.zeros_(network.final_conv.weight)
    network.final_conv.bias.data[:] = -torch.arange(21.0)
    path = tmp_path_factory.mktemp("background") / "w.safetensors"
    write_weights(path, list_tensors(network), Metadata())
    return path


def run(*arguments, status):
    with pytest.raises(SystemExit) as caught:
        compare.main([str(argument) for argument in arguments])
    assert caught.value.code == status


def test_the_exit_status_tells_better_from_worse(
    voc_folder, weights_file, background_file, tmp_path, capsys
):
    data = ["--data", voc_folder, "--image-set", "train"]
    run(background_file, weights_file, *data, "--json", tmp_path / "c.json", status=3)
    table = capsys.readouterr().out
    assert "B is worse than A: -" in table
    assert "pottedplant" in table
    report = json.loads((tmp_path / "c.json").read_text())
    assert report["images"] == 12
    assert report["mean_iou"]["verdict"] == "worse"
    assert report["mean_iou"]["high"] < 0 < report["mean_iou"]["first"]
    run(weights_file, background_file, *data, "--require-better", status=0)
    assert "B is better than A: +" in capsys.readouterr().out
    run(weights_file, weights_file, *data, status=0)
    assert "No difference is shown: +0.0" in capsys.readouterr().out
    run(weights_file, weights_file, *data, "--require-better", status=4)


def test_wrong_input_ends_with_one_line(voc_folder, weights_file, tmp_path):
    tensors = list_tensors(FCN(num_classes=2))
    write_weights(tmp_path / "w", tensors, Metadata(classes=("background", "ship")))
    with pytest.raises(SystemExit, match=r"error: .*only networks of the same classes"):
        compare.main([str(weights_file), str(tmp_path / "w"), "--data", str(voc_folder)])
    with pytest.raises(SystemExit, match=r"error: .*expected a weights file"):
        compare.main([str(weights_file), str(tmp_path / "x"), "--data", str(voc_folder)])
