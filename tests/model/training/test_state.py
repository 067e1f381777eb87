"""A training's own parts: its average, its batch norms, its resumable state."""

import copy
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from model.errors import RecipeError
from model.network import FCN
from model.state_dict import list_tensors
from model.training.batch_norm import synchronise_batch_norms
from model.training.distributed import Group
from model.training.history import EpochSums
from model.training.recipe import PRESETS
from model.training.state import Training
from model.training.validation import export
from model.weights import Metadata

CPU = Group(torch.device("cpu"))
CLASSES = ("background", "ship")
RECIPE = replace(PRESETS["default"], batch_size=2, crop=(32, 32), epochs=2, precision="float32")


def start(**options):
    torch.manual_seed(0)
    return Training(
        FCN(num_classes=2),
        replace(RECIPE, **options),
        Metadata(classes=CLASSES),
        pretrained=frozenset(),
        steps_per_epoch=2,
        seed=0,
        image_set="train",
        images=4,
        group=CPU,
    )


def batch(number):
    generator = torch.Generator().manual_seed(number)
    return (
        torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 2, (2, 32, 32), dtype=torch.uint8, generator=generator),
    )


def test_the_time_of_an_epoch_starts_with_its_first_batch(monkeypatch):
    """Not with the feature cache, or the checkpoint and the figures of the epoch before."""
    sums = EpochSums()
    clock = iter([100.0, 101.5, 104.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    for _ in range(2):
        sums.start()
        sums.add(loss=1.0, images=4, hits=1, known=2)
    assert (sums.seconds, sums.images_per_s) == (4.0, 2.0)


def test_the_average_is_what_is_exported_and_it_resumes():
    training = start(ema_decay=0.5)
    expected = {n: t.astype(np.float64) for n, t in list_tensors(training.network).items()}
    for step in (1, 2, 3):
        training.train_step(*batch(step))
        decay = min(0.5, step / (step + 10))
        for name, tensor in list_tensors(training.network).items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor
    name = "backbone.layer4.1.bn2.running_var"
    found = export(training, half=False).tensors
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
    np.testing.assert_allclose(found["final_conv.weight"], expected["final_conv.weight"], rtol=1e-4)
    assert not np.array_equal(found[name], list_tensors(training.network)[name])
    assert found["backbone.bn1.num_batches_tracked"] == 3

    state = copy.deepcopy(training.state())  # as a file would hold it
    resumed = start(ema_decay=0.5)
    resumed.restore(state)
    for one in (training, resumed):
        one.train_step(*batch(4))
    first, second = (export(one, half=False).tensors for one in (training, resumed))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_frozen_statistics_stay_and_are_used():
    training = start(freeze_statistics=True)
    before = training.network.backbone.bn1.running_mean.clone()
    weight = training.network.backbone.bn1.weight.clone()
    training.train_step(*batch(1))
    assert torch.equal(training.network.backbone.bn1.running_mean, before)
    assert not torch.equal(training.network.backbone.bn1.weight, weight), "they still learn"


def test_batch_norms_are_synchronised_between_gpus_alone():
    recipe = replace(RECIPE, sync_batch_norm=True)
    network = FCN(num_classes=2)
    names = list(network.state_dict())
    synchronise_batch_norms(network, recipe, Group(torch.device("cuda"), world_size=2))
    assert isinstance(network.backbone.layer1[0].bn1, nn.SyncBatchNorm)
    assert list(network.state_dict()) == names
    alone = FCN(num_classes=2)
    synchronise_batch_norms(alone, recipe, Group(torch.device("cuda")))
    assert not isinstance(alone.backbone.bn1, nn.SyncBatchNorm)
    with pytest.raises(RecipeError, match="works on GPUs only"):
        synchronise_batch_norms(alone, recipe, Group(torch.device("cpu"), world_size=2))


def test_class_weights_of_other_classes_are_refused():
    with pytest.raises(RecipeError, match="3 class weights for 2 classes"):
        start(class_weights=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "options",
    [
        {"hard_share": 0.0},
        {"ema_decay": 1.0},
        {"region_weight": -1.0},
        {"class_weights": (-1.0,)},
        {"boundary_weight": -1.0},
    ],
)
def test_values_out_of_bounds_are_refused(options):
    with pytest.raises(RecipeError, match="expected"):
        replace(RECIPE, **options)


def test_a_compiled_network_learns_the_same_and_its_state_stays_the_same():
    """The backend is PyTorch's own kernels: to compile others takes minutes."""
    compiled, plain = start(ema_decay=0.5), start(ema_decay=0.5)
    compiled.compile(backend="aot_eager")
    losses = []
    for training in (compiled, plain):
        training.train_step(*batch(1))
        losses += [row.loss for row in training.collect_steps(wait=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert compiled.state()["network"].keys() == plain.state()["network"].keys()
    first, second = (dict(training.network.named_parameters()) for training in (compiled, plain))
    name = "final_conv.weight"
    torch.testing.assert_close(first[name], second[name], rtol=1e-2, atol=1e-4)
