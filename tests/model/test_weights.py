import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from model.classes import PALETTE
from model.errors import WeightsError
from model.weights import (
    Metadata,
    get_colormap,
    read_metadata,
    read_weights,
    write_atomically,
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
def test_a_file_of_another_kind_is_named(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"w\.safetensors: expected a safetensors file"):
        read_weights(path)


def test_a_part_of_a_file_is_named(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"only a part of one .*Copy it again"):
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
    with pytest.raises(WeightsError, match="fcn8s_resnet18, found unet"):
        write_weights(path, TENSORS, Metadata(architecture="unet"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="nothing there"):
        read_weights(tmp_path / "nothing.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"old")

    def write_half():
        with write_atomically(path) as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_colormap_of_own_classes_has_their_colours():
    colours = get_colormap(Metadata(classes=("a", "b"), palette=((1, 2, 3), (4, 5, 6))))
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


def rewritten(path, **entries):
    """A weights file with these entries in its header, and a valid digest."""
    write_weights(path, TENSORS, Metadata())
    with safetensors.safe_open(path, framework="np") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header |= entries
    safetensors.numpy.save_file(tensors, path, header)
    return path


def palette_with(colour):
    colours = [list(map(int, colour)) for colour in PALETTE[:21]]
    return json.dumps([*colours[:-1], colour])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"palette": palette_with([999, 0, 0])}, r"metadata palette\[20\]: .*0 to 255, .*999"),
        ({"palette": palette_with([-1, 0, 0])}, r"palette\[20\]: .*-1"),
        ({"palette": palette_with([1.5, 0, 0])}, r"palette\[20\]: .*1\.5"),
        ({"palette": palette_with([True, 0, 0])}, r"palette\[20\]: .*True"),
        ({"palette": palette_with([0, 0])}, r"palette\[20\]: expected three integers"),
        ({"palette": palette_with("red")}, r"palette\[20\]: expected three integers"),
        ({"palette": "[]"}, "metadata palette: expected one colour for each class, found 'none'"),
        ({"palette": "{}"}, "metadata palette: expected a list"),
        ({"classes": '"background"'}, "metadata classes: expected a list"),
        ({"classes": '["one"]'}, "metadata classes: expected 2 to 255 names, found 1"),
        ({"classes": json.dumps([f"c{i}" for i in range(256)])}, "2 to 255 names, found 256"),
        ({"classes": json.dumps(["a"] * 21)}, "names that differ, found 'a twice'"),
        ({"classes": json.dumps([""] * 21)}, r"classes\[0\]: expected a name of 1 to 100"),
        ({"classes": json.dumps(["a", " "])}, r"classes\[1\]: expected a printable name"),
        ({"classes": json.dumps(["a", "\n"])}, r"classes\[1\]: expected a printable name"),
        ({"classes": '["a", "\\ud800"]'}, r"classes\[1\]: expected a printable name"),
        ({"classes": '["a", 7]'}, r"classes\[1\]: expected a name .*, found 7"),
        ({"classes": json.dumps(["a", "b" * 101])}, r"classes\[1\]: expected a name"),
        ({"mean": "[0.5, 0.5]"}, "metadata mean: expected three numbers of 0 to 1"),
        ({"mean": "[0.5, 0.5, 1e999]"}, "metadata mean: .*inf"),
        ({"mean": "[0.5, 0.5, 124]"}, "metadata mean: .*124"),
        ({"mean": '[0.5, 0.5, "0.5"]'}, "metadata mean: expected three numbers"),
        ({"std": "[0.2, 0.2, 0]"}, "metadata std: expected three numbers of 0.001 to 1000"),
        ({"std": "[0.2, 0.2, NaN]"}, "metadata std: .*nan"),
        ({"scores": "[]"}, "metadata scores: expected an object"),
        ({"scores": '{"mean_iou": NaN}'}, "metadata scores.mean_iou: expected a finite number"),
        ({"recipe": '{"name": "\\ud800"}'}, "metadata recipe.name: expected text"),
        ({"data": '{"x": ' * 50 + "1" + "}" * 50}, "metadata data.*: expected at most 16 lists"),
        ({"data": "[" * 100_000}, r"metadata data: expected JSON"),
        ({"data": '"' + "x" * 2**20 + '"'}, "metadata data: expected at most 1048576 characters"),
        ({"data": "{"}, "metadata data: expected JSON"),
    ],
)
def test_invalid_metadata_are_refused_in_one_line(tmp_path, entries, message):
    path = rewritten(tmp_path / "w.safetensors", **entries)
    for read in (read_metadata, read_weights):
        with pytest.raises(WeightsError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400 + len(str(path))


def test_invalid_metadata_are_not_written_either(tmp_path):
    with pytest.raises(WeightsError, match="three integers of 0 to 255"):
        write_weights(
            tmp_path / "w",
            TENSORS,
            Metadata(classes=("a", "b"), palette=((0, 0, 0), (256, 0, 0))),
        )
    assert list(tmp_path.iterdir()) == []


def test_as_many_classes_as_a_mask_can_hold_are_possible(tmp_path):
    names = tuple(f"class {index}" for index in range(255))
    write_weights(tmp_path / "w", TENSORS, Metadata(classes=names))
    assert read_metadata(tmp_path / "w").classes == names
    with pytest.raises(WeightsError, match="2 to 255 names, found 256"):
        Metadata(classes=(*names, "one more"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(tmp_path, monkeypatch, value):
    path = tmp_path / "w"
    tensors = TENSORS | {"final_conv.bias": np.array([0, value])}
    with pytest.raises(WeightsError, match=r"final_conv\.bias: expected finite numbers"):
        write_weights(path, tensors, Metadata())
    assert not path.exists()
    write_unchecked(monkeypatch, path, tensors)
    with pytest.raises(WeightsError, match=r"final_conv\.bias: expected finite numbers"):
        read_weights(path)


@pytest.mark.parametrize("type_", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_tensor_of_a_type_that_numpy_lacks_is_named(tmp_path, type_):
    path = tmp_path / "w"
    write_weights(path, {}, Metadata())
    with safetensors.safe_open(path, framework="np") as file:
        header = file.metadata()
    safetensors.torch.save_file({"some.weight": torch.zeros(2).to(type_)}, path, header)
    with pytest.raises(WeightsError, match=r"w: some\.weight: .*Store it as float32"):
        read_weights(path)


def write_unchecked(monkeypatch, path, tensors):
    """Write the file without checks, as another program may."""
    with monkeypatch.context() as patched:
        patched.setattr("model.weights.require_finite", lambda *_: None)
        write_weights(path, tensors, Metadata())


def test_a_tensor_that_holds_no_numbers_is_named(tmp_path, monkeypatch):
    path = tmp_path / "w"
    write_unchecked(monkeypatch, path, {"some.weight": np.array([True])})
    with pytest.raises(WeightsError, match=r"w: some\.weight: expected numbers, found bool"):
        read_weights(path)


def test_equal_content_gives_equal_bytes(tmp_path):
    """In separate processes, because the order of a hash map may differ between them."""
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from model.weights import Metadata, write_weights\n"
        "tensors = {'b': np.ones(3, np.float16), 'a': np.ones((), np.int64)}\n"
        "write_weights(Path(sys.argv[1]), tensors, Metadata(classes=('a', 'é')))"
    )
    for number in range(4):
        subprocess.run(
            [sys.executable, "-c", code, tmp_path / str(number)], check=True, cwd=REPOSITORY
        )
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    stored = safetensors.numpy.load_file(tmp_path / "0")
    assert stored["b"].tolist() == [1, 1, 1]
    assert stored["a"] == 1
    assert read_weights(tmp_path / "0").metadata.classes == ("a", "é")
