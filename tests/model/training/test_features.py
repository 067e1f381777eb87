"""Training on the features of frozen layers, kept on disk: the same as running them each time."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from model import train
from model.errors import OutputError, RecipeError
from model.network import FCN
from model.training.cutmix import mix_batch
from model.training.features import FeatureCache
from model.training.frozen import count_frozen_start
from model.training.recipe import PRESETS
from model.weights import read_weights, write_weights

START = ["conv1", "bn1", "layer1", "layer2"]
SMALL = [
    *("--batch-size", "4", "--crop", "64", "64", "--workers", "0", "--backbone", "none"),
    *("--epochs", "2", "--precision", "float32", "--views", "2", "--frozen", *START),
    *("--val-image-set", "none"),
]


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        train.main([str(argument) for argument in arguments])
    assert caught.value.code == 0


def refuse(message, *arguments):
    with pytest.raises(SystemExit, match=message):
        train.main([str(argument) for argument in arguments])


def read_tensors(path):
    return read_weights(path).tensors


@pytest.fixture(scope="module")
def cached(voc_folder, tmp_path_factory):
    """The folder of a run that made its features: `w.safetensors` and the folder `features`."""
    folder = tmp_path_factory.mktemp("cached")
    options = ["--output", folder / "w.safetensors", "--feature-cache", folder / "features"]
    run("--data", voc_folder, *SMALL, *options)
    return folder


def test_weights_are_those_of_a_run_without_the_cache(cached, voc_folder, tmp_path):
    run("--data", voc_folder, *SMALL, "--output", tmp_path / "w.safetensors")
    found, expected = (read_tensors(path / "w.safetensors") for path in (cached, tmp_path))
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-3, atol=1e-5, err_msg=name)


def test_frozen_layers_keep_weights_and_statistics_and_the_others_learn(cached):
    torch.manual_seed(0)
    start = FCN().state_dict()
    found = read_tensors(cached / "w.safetensors")
    for name, tensor in start.items():
        if "num_batches" in name:
            continue
        is_frozen = any(f"backbone.{child}." in name for child in START)
        if is_frozen:
            np.testing.assert_array_equal(found[name], tensor, err_msg=name)
        elif name.startswith(("backbone.layer3", "backbone.layer4", "final_conv")):
            assert not np.array_equal(found[name], tensor), name


def test_finished_features_are_used_again(cached, voc_folder, tmp_path):
    features = cached / "features" / "features.npy"
    made = features.stat().st_mtime_ns
    run(
        *("--data", voc_folder, *SMALL, "--output", tmp_path / "w.safetensors"),
        *("--feature-cache", cached / "features"),
    )
    assert features.stat().st_mtime_ns == made
    found, expected = (read_tensors(path / "w.safetensors") for path in (tmp_path, cached))
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_features_of_another_run_and_recipes_without_any_are_refused(cached, voc_folder, tmp_path):
    common = ["--data", voc_folder, *SMALL, "--output", tmp_path / "w.safetensors"]
    cache = ["--feature-cache", cached / "features"]
    refuse("made of other images, views or weights", *common, *cache, "--views", "3")
    refuse("made of other images, views or weights", *common, *cache, "--seed", "1")
    refuse("needs --views", *common, *cache, "--views", "0")
    refuse("needs --views", *common, *cache, "--frozen", "layer4")


def test_features_of_another_normalisation_are_refused(cached, voc_folder, tmp_path):
    weights = read_weights(cached / "w.safetensors")
    other = replace(weights.metadata, mean=(0.5, 0.5, 0.5))
    write_weights(tmp_path / "other.safetensors", weights.tensors, other)
    place = SMALL.index("--backbone")
    common = ["--data", voc_folder, *SMALL[:place], *SMALL[place + 2 :]]
    cache = ["--feature-cache", cached / "features"]
    run(
        *(*common, *cache, "--init", cached / "w.safetensors"),
        *("--output", tmp_path / "same.safetensors"),
    )
    refuse(
        "made of other images, views or weights",
        *(*common, *cache, "--init", tmp_path / "other.safetensors"),
        *("--output", tmp_path / "w.safetensors"),
    )


def test_features_of_other_images_with_the_same_names_are_refused(cached, voc_folder, tmp_path):
    other = shutil.copytree(voc_folder, tmp_path / "other")
    path = other / "VOCdevkit/VOC2012/JPEGImages/train_0003.jpg"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    refuse(
        "made of other images, views or weights",
        *("--data", other, *SMALL, "--output", tmp_path / "w.safetensors"),
        *("--feature-cache", cached / "features"),
    )


@pytest.mark.parametrize("damage", ["unfinished", "shortened", "removed"])
def test_incomplete_features_are_made_anew(cached, voc_folder, tmp_path, damage):
    """The error message says that removing the file of features is enough."""
    folder = shutil.copytree(cached / "features", tmp_path / "features")
    features = folder / "features.npy"
    if damage == "unfinished":
        (folder / "features.json").unlink()
        features.write_bytes(b"half a file")
    elif damage == "shortened":
        features.write_bytes(features.read_bytes()[:-1000])
    else:
        (folder / "features.json").write_text("of another run")
        features.unlink()
    run(
        *("--data", voc_folder, *SMALL, "--output", tmp_path / "w.safetensors"),
        *("--feature-cache", folder),
    )
    found, expected = (np.load(path / "features.npy") for path in (folder, cached / "features"))
    np.testing.assert_array_equal(found, expected)


def test_a_full_disk_is_reported_before_anything_is_computed(cached, tmp_path):
    description = json.loads((cached / "features" / "features.json").read_text())
    cache = FeatureCache(tmp_path, description | {"shape": [10**9, 40, 40, 128]})
    with pytest.raises(RecipeError, match=r"819200\.0 GB"):
        cache.write(iter(()))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="nothing can be written into"):
        FeatureCache(tmp_path / "file" / "folder", description).write(iter(()))


@pytest.mark.parametrize(
    ("frozen", "children"),
    [
        ((), 0),
        (("layer1",), 0),
        (("conv1",), 1),
        (("bn1", "conv1"), 4),
        (("conv1", "bn1", "layer1", "layer3"), 5),
    ],
)
def test_the_frozen_start_ends_before_the_first_layer_that_learns(frozen, children):
    assert count_frozen_start(replace(PRESETS["default"], frozen=frozen)) == children


def test_cutmix_takes_the_same_window_from_every_map():
    crop = (96, 128)
    number = torch.arange(4, dtype=torch.uint8)
    pixels = number[:, None, None].expand(4, *crop).clone()
    cells = number[:, None, None, None].expand(4, 12, 16, 5).clone()
    batch = (pixels, cells)
    images, soft = mix_batch(batch, crop=crop, share=1, rng=np.random.default_rng(0))
    torch.testing.assert_close(images[:, ::8, ::8], soft[..., 0])
    for place in range(4):
        found = set(images[place].unique().tolist())
        assert found == {place, (place + 1) % 4}
    assert batch[0].equal(pixels)
    unmixed = mix_batch(batch, crop=crop, share=0, rng=np.random.default_rng(0))
    assert all(map(torch.equal, unmixed, batch))


def test_a_run_with_cutmix_is_repeatable(voc_folder, tmp_path):
    options = ["--data", voc_folder, *SMALL, "--cutmix", "0.5"]
    run(*options, "--output", tmp_path / "once.safetensors")
    run(*options, "--output", tmp_path / "again.safetensors")
    found, expected = (read_tensors(tmp_path / f"{n}.safetensors") for n in ("once", "again"))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
