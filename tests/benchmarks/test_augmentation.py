"""Both ways of the augmentation's benchmark make the same batches, and both are measured."""

from dataclasses import replace

import pytest
import torch

from benchmarks.augmentation import measure_preset, measure_training, open_ways
from benchmarks.voc import choose_samples, make_voc
from model.training.recipe import PRESETS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc")
    make_voc(folder, 2, size=(70, 100))
    return choose_samples(folder, (64, 64), 2)


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch):
    for name, recipe in PRESETS.items():
        small = replace(recipe, batch_size=2, crop=(64, 64), precision="float32")
        monkeypatch.setitem(PRESETS, name, small)


def test_each_way_has_its_rate(samples):
    rows = measure_preset(samples, "default", CPU, rounds=1)
    assert [row["way"] for row in rows] == [
        "Pillow, one after the other",
        "PyTorch, whole batches on cpu",
    ]
    assert all(row["images/s"] > 0 for row in rows)


def test_steps_learn_from_the_devices_batches(samples):
    batches = []
    ways = open_ways(samples, "d2l", CPU)
    ways.make_on_device(lambda *batch: batches.append(batch))
    assert [tuple(tensor.shape) for tensor in batches[0]] == [(2, 64, 64, 3), (2, 64, 64)]
    assert ways.images == 2
    assert measure_training(samples, "d2l", CPU, rounds=1) > 0
