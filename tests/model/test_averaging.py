import numpy as np
import pytest
import torch

from model import evaluate
from model.averaging import AveragingPredictor
from model.predictor import open_predictor
from model.scaling import scale_to
from model.weights import read_weights


@pytest.fixture(scope="module")
def weights(weights_file):
    return read_weights(weights_file)


@pytest.mark.parametrize("max_side", [0, 200])
def test_a_single_view_gives_the_served_mask(weights, weights_file, photo, max_side):
    expected = open_predictor(weights_file, scaling=scale_to(max_side))(photo)
    found = AveragingPredictor(weights, scaling=scale_to(max_side), device="cpu")(photo)
    assert found.shape == photo.shape[:2]
    assert np.mean(found == expected) >= 0.9999


def test_views_are_averaged_at_the_images_size(weights, photo):
    """An average over mirror images is the same for the mirrored image."""
    photo = photo[:64, :96]
    averaging = AveragingPredictor(weights, scales=(0.75, 1, 1.25), flip=True, device="cpu")
    found = averaging.compute_probabilities(photo)
    assert found.shape == (21, 64, 96)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(64, 96))
    single = [
        AveragingPredictor(weights, scales=(scale,), device="cpu") for scale in (0.75, 1, 1.25)
    ]
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    views = [one.compute_probabilities(photo) for one in single]
    views += [one.compute_probabilities(mirrored).flip(2) for one in single]
    # Resampling a mirror image rounds other pixels than the image's.
    assert (found - torch.stack(views).mean(dim=0)).abs().max() < 0.02


def test_evaluation_averages(voc_folder, weights_file, capsys):
    data = ["--data", str(voc_folder), "--weights", str(weights_file)]
    evaluate.main([*data, "--scales", "0.75", "1", "--flip", "--device", "cpu"])
    assert "mean IoU" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([*data, "--scales", "0"])
