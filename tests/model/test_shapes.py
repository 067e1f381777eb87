import numpy as np
import pytest

from model import shapes
from model.class_list import read_classes
from model.training.dataset import SegmentationDataset
from model.training.pairs import pair_folders


def test_the_shapes_are_a_sound_data_set_of_two_classes(tmp_path, capsys):
    for folder in ("a", "b"):
        shapes.main(["--output", str(tmp_path / folder), "--number", "6", "--seed", "4"])
    shapes.main(["--output", str(tmp_path / "c"), "--number", "6"])
    classes = read_classes(tmp_path / "a/classes.toml")
    assert classes.names == ("background", "coin")

    def read(folder):
        samples = pair_folders(tmp_path / folder / "images", tmp_path / folder / "masks")
        images = SegmentationDataset(samples, name=folder, classes=classes)
        return [images.read(index) for index in range(len(images))]

    first, same, other = read("a"), read("b"), read("c")
    for (image, target), (image_again, target_again) in zip(first, same, strict=True):
        assert np.array_equal(image, image_again)
        assert np.array_equal(target, target_again)
        assert set(np.unique(target)) == {0, 1, 255}
        coins, ground = (image[target == index].mean(axis=0) for index in (1, 0))
        assert coins[0] > ground[0] + 50, "coins are redder than what they lie on"
    assert not np.array_equal(first[0][1], other[0][1])


@pytest.mark.parametrize("wrong", [("--seed", "-1"), ("--number", "0"), ("--number", "few")])
def test_wrong_numbers_are_named(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit):
        shapes.main(["--output", str(tmp_path / "new"), *wrong])
    assert f"argument {wrong[0]}: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
