"""Copy-paste takes objects with their labels, and nothing else."""

import numpy as np
import pytest
import torch

from model import train
from model.training.copy_paste import paste_objects
from model.weights import read_weights

VOID = 255


def make_batch():
    """Two views of 16 x 16: a grey one without objects, a white one with one, edged with void."""
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    images[0], images[1] = 128, 255
    targets = torch.zeros(2, 16, 16, dtype=torch.uint8)
    targets[1, 3:10, 3:9] = VOID
    targets[1, 4:8, 4:8] = 15
    soft = torch.zeros(2, 2, 2, 21)
    soft[0, ..., 0], soft[1, ..., 15] = 1, 1
    return images, targets, soft


def test_an_object_is_pasted_with_its_labels_and_without_its_surroundings():
    batch = make_batch()
    images, targets, soft = paste_objects(batch, share=1, rng=np.random.default_rng(0))
    pasted = batch[1][1] == 15
    assert images[0][pasted].eq(255).all()
    assert targets[0][pasted].eq(15).all()
    assert images[0][~pasted].eq(128).all()
    assert targets[0][~pasted].eq(0).all()
    # The object covers a quarter of the first cell of 8 x 8, and none of the others.
    torch.testing.assert_close(soft[0, 0, 0, [0, 15]], torch.tensor([0.75, 0.25]))
    assert soft[0, 1, 1, 0] == 1
    assert images[1].eq(255).all()
    assert targets[1].equal(batch[1][1])


def test_the_batch_itself_stays_as_it_is():
    batch, before = make_batch(), make_batch()
    paste_objects(batch, share=1, rng=np.random.default_rng(0))
    assert all(map(torch.equal, batch, before))
    unmixed = paste_objects(batch, share=0, rng=np.random.default_rng(0))
    assert all(map(torch.equal, unmixed, before))


def train_with(*arguments):
    with pytest.raises(SystemExit) as caught:
        train.main([str(argument) for argument in arguments])
    return caught.value.code


SMALL = [
    *("--batch-size", "4", "--crop", "64", "64", "--workers", "0", "--backbone", "none"),
    *("--epochs", "1", "--precision", "float32", "--val-image-set", "none"),
    *("--copy-paste", "0.5", "--cutmix", "0.5"),
]


def test_a_run_with_copy_paste_is_repeatable(voc_folder, tmp_path):
    for name in ("once", "again"):
        output = tmp_path / f"{name}.safetensors"
        assert train_with("--data", voc_folder, *SMALL, "--output", output) == 0
    found, expected = (read_weights(tmp_path / f"{n}.safetensors") for n in ("once", "again"))
    assert found.metadata.digest == expected.metadata.digest


def test_features_have_no_pixels_to_paste(voc_folder, tmp_path):
    cached = ["--views", "2", "--frozen", "conv1", "bn1", "--feature-cache", tmp_path / "features"]
    output = ["--output", tmp_path / "w.safetensors"]
    assert "--copy-paste needs pixels" in train_with("--data", voc_folder, *SMALL, *cached, *output)
