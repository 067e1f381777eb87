import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from model.errors import WeightsError
from model.weights import (
    Metadata,
    atomic_write,
    colormap,
    read_metadata,
    read_weights,
    write_weights,
)
from tests.conftest import REPOSITORY

TENSORS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.count": np.array(7, np.int64),
    "c.half": np.array([0.5, 2.0], np.float16),
}


def test_what_was_written_is_read_back(tmp_path):
    path = tmp_path / "folder" / "w.safetensors"
    metadata = Metadata(
        classes=("background", "ship"),
        recipe={"name": "x", "lr": 0.1, "crop": [1, 2]},
        scores={"mean_iou": 0.5, "iou": {"ship": None}},
        data={"image_set": "train"},
    )
    written = write_weights(path, TENSORS, metadata)
    weights = read_weights(path)
    assert weights.metadata == written == read_metadata(path)
    assert weights.metadata.classes == ("background", "ship")
    assert weights.metadata.palette == ((0, 0, 0), (128, 0, 0))
    assert len(weights.metadata.digest) == 64
    for name, array in TENSORS.items():
        assert weights.tensors[name].shape == array.shape
        assert np.array_equal(weights.tensors[name], array)
    assert weights.tensors["c.half"].dtype == np.float32


def test_the_digest_depends_on_tensors_and_metadata(tmp_path):
    digests = {
        write_weights(tmp_path / "w", TENSORS, Metadata()).digest,
        write_weights(tmp_path / "w", TENSORS | {"a.count": np.array(8)}, Metadata()).digest,
        write_weights(tmp_path / "w", TENSORS, Metadata(mean=(0.0, 0.0, 0.0))).digest,
    }
    assert len(digests) == 3
    again = write_weights(tmp_path / "w", TENSORS, Metadata()).digest
    assert again in digests


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, TENSORS, Metadata())
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match=r"w\.safetensors: damaged"):
        read_weights(path)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 100])
def test_another_kind_of_file_is_named(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.safetensors: expected a safetensors file"):
        read_weights(path)


def test_safetensors_that_are_no_weights_file_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    with pytest.raises(WeightsError, match="found no format version"):
        read_weights(path)
    safetensors.numpy.save_file(TENSORS, path, {"format_version": "99"})
    with pytest.raises(WeightsError, match="found version 99"):
        read_weights(path)
    safetensors.numpy.save_file(TENSORS, path, {"format_version": "1", "classes": "[]"})
    with pytest.raises(WeightsError, match="its metadata lacks architecture"):
        read_weights(path)


def test_metadata_that_contradict_each_other_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    palette = ((0, 0, 0), (1, 2, 3))
    with pytest.raises(WeightsError, match="one colour for each of its 21 classes, found 2"):
        write_weights(path, TENSORS, Metadata(palette=palette))
    with pytest.raises(WeightsError, match="expected the architecture fcn_resnet18, found unet"):
        write_weights(path, TENSORS, Metadata(architecture="unet"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="nothing there"):
        read_weights(tmp_path / "nothing.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"old")

    def write_half():
        with atomic_write(path) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_colormap_of_own_classes_has_their_colours():
    colours = colormap(Metadata(classes=("a", "b"), palette=((1, 2, 3), (4, 5, 6))))
    assert colours.shape == (256, 3)
    assert colours[:2].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_weights_are_read_without_torch(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, TENSORS, Metadata())
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\n"
        "from model.weights import read_weights\n"
        f"weights = read_weights(Path({json.dumps(str(path))}))\n"
        "print(len(weights.tensors), weights.metadata.classes[8])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["3", "cat"]
