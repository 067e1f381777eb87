"""Training fcn16s and fcn8s: their loss compared with plain PyTorch, their start, whole runs."""

import signal
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model import convert, evaluate, train
from model.errors import RecipeError
from model.network import FCN
from model.training.frozen import count_frozen_start, freeze_layers
from model.training.loss import PixelLoss
from model.training.recipe import PRESETS
from model.training.region_loss import region_loss
from model.training.start import start_network
from model.weights import read_weights

RECIPE = PRESETS["default"]
FINER = ("fcn16s", "fcn8s")
SMALL = [
    *("--batch-size", "4", "--crop", "64", "64", "--workers", "0", "--precision", "float32"),
]


def run(*arguments, status=0):
    with pytest.raises(SystemExit) as caught:
        train.main([str(argument) for argument in arguments])
    assert caught.value.code == status


def build_network(architecture):
    """In float64, with skips that are not zero."""
    torch.manual_seed(0)
    network = FCN(3, architecture)
    for skip in network.skip_convs.parameters():
        nn.init.normal_(skip, std=0.1)
    return network.double().train()


@pytest.fixture(scope="module")
def batch():
    """Images, a target with void, soft labels of which some cells have none."""
    torch.manual_seed(1)
    target = torch.randint(0, 3, (2, 96, 64))
    target[0, :9], target[1, :, 40:50] = 255, 255
    soft = torch.rand(2, 12, 8, 3).double().softmax(3)
    soft[0, 0] = 0
    return torch.randn(2, 3, 96, 64).double(), target, soft


def assert_same_gradients(network, found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    parameters = [p for p in network.parameters() if p.requires_grad]
    pairs = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (found, expected))
    for own, plain in zip(*pairs, strict=True):
        assert (own - plain).abs().max() <= 1e-9 * plain.abs().max()


@pytest.mark.parametrize("architecture", FINER)
@pytest.mark.parametrize("trained", [False, True])
def test_the_loss_and_its_gradients_are_plain_pytorchs(architecture, trained, batch):
    images, target, _ = batch
    network = build_network(architecture)
    recipe = replace(RECIPE, architecture=architecture, train_transpose_conv=trained)
    freeze_layers(network, recipe)
    nn.init.normal_(network.transpose_conv.bias)
    measure = PixelLoss(network, recipe, autocast=False)
    assert measure.interpolates != trained
    found, (hits, known) = measure(images, target)
    logits = network(images)
    assert_same_gradients(network, found, F.cross_entropy(logits, target, ignore_index=255))
    assert hits == (logits.argmax(1) == target).sum()
    assert known == (target != 255).sum()


@pytest.mark.parametrize("architecture", FINER)
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_a_stride_and_soft_labels_and_frozen_layers_work_together(architecture, stride, batch):
    images, target, soft = batch
    frozen = ("conv1", "bn1", "layer1", "layer2")
    network = build_network(architecture)
    recipe = replace(
        RECIPE, architecture=architecture, loss_stride=stride, soft_weight=0.25, frozen=frozen
    )
    freeze_layers(network, recipe)
    nn.init.zeros_(network.transpose_conv.bias)
    found, _ = PixelLoss(network, recipe, autocast=False)(images, target, soft)

    coarse = network.coarse_logits(images)
    framed = F.pad(coarse, (1, 1, 1, 1))

    def enlarge(factor):
        large = F.interpolate(framed, scale_factor=factor, mode="bilinear", align_corners=False)
        return large[..., factor:-factor, factor:-factor]

    every = (..., slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    of_stride = enlarge(network.architecture.stride // stride)
    hard = F.cross_entropy(of_stride, target[every], ignore_index=255)
    of_cells = enlarge(network.architecture.stride // 8).log_softmax(1).permute(0, 2, 3, 1)
    known = soft.sum(dim=3) > 0
    taught = -(soft * of_cells).sum() / known.sum()
    assert_same_gradients(network, found, 0.75 * hard + 0.25 * taught)


@pytest.mark.parametrize("architecture", ["fcn32s", *FINER])
@pytest.mark.parametrize("stride", [1, 4])
def test_a_region_loss_sees_cells_of_any_architecture_and_stride(architecture, stride, batch):
    images, target, _ = batch
    network = build_network(architecture)

    def loss(**options):
        recipe = replace(RECIPE, architecture=architecture, loss_stride=stride, **options)
        return PixelLoss(network, recipe, autocast=False)(images, target)[0]

    region = region_loss(network.coarse_logits(images), target, "dice")
    torch.testing.assert_close(loss(region_loss="dice", region_weight=0.5), loss() + 0.5 * region)


@pytest.mark.parametrize(
    ("architecture", "frozen", "children"),
    [
        ("fcn32s", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), 8),
        ("fcn16s", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), 7),
        ("fcn8s", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), 6),
        ("fcn8s", ("conv1", "bn1", "layer1"), 5),
        ("fcn8s", (), 0),
    ],
)
def test_features_are_kept_from_before_a_skip(architecture, frozen, children, batch):
    recipe = replace(RECIPE, architecture=architecture, frozen=frozen)
    assert count_frozen_start(recipe) == children
    images, target, _ = batch
    network = build_network(architecture).eval()
    measure = PixelLoss(network, recipe, autocast=False)
    features = network.backbone[:children](images)
    torch.testing.assert_close(measure(features, target)[0], measure(images, target)[0])


def start(path, architecture, **options):
    options = Namespace(init=path, classes=None, **options)
    recipe = replace(RECIPE, architecture=architecture)
    return start_network(options, recipe, lambda *_: None)


def test_a_finer_network_starts_from_a_weights_file_with_new_skips(weights_file):
    stored = read_weights(weights_file)
    network, pretrained, metadata = start(weights_file, "fcn8s")
    found = network.state_dict()
    for name, array in stored.tensors.items():
        if name != "transpose_conv.weight":
            np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert not any(skip.any() for skip in network.skip_convs.parameters())
    assert all(name.startswith("backbone.") for name in pretrained)
    assert metadata.data["start"] == f"fcn32s weights with digest {stored.metadata.digest}"


@pytest.fixture(scope="module")
def finished(voc_folder, weights_file, tmp_path_factory):
    """An fcn8s, of one epoch of skips and classifiers alone, from an fcn32s."""
    output = tmp_path_factory.mktemp("finer") / "w.safetensors"
    frozen = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
    run("--data", voc_folder, "--output", output, "--init", weights_file, "--architecture", "fcn8s",
        "--frozen", *frozen, "--epochs", 1, "--ema-decay", 0.5, "--loss-stride", 4,
        *SMALL)  # fmt: skip
    return output


def test_a_run_writes_validates_and_evaluates_a_finer_network(
    finished, weights_file, voc_folder, capsys
):
    stored, start = read_weights(finished), read_weights(weights_file)
    assert stored.metadata.architecture == "fcn8s_resnet18"
    assert stored.metadata.recipe["architecture"] == "fcn8s"
    assert 0 <= stored.metadata.scores["mean_iou"] <= 1
    for name, array in stored.tensors.items():
        if name.startswith("backbone.") and "num_batches" not in name:
            np.testing.assert_array_equal(array, start.tensors[name], err_msg=name)
        elif name.startswith(("skip_convs", "final_conv")):
            assert np.abs(array).max() > 0, name
    assert not np.array_equal(stored.tensors["final_conv.bias"], start.tensors["final_conv.bias"])
    evaluate.main(["--data", str(voc_folder), "--weights", str(finished)])
    assert "mean IoU" in capsys.readouterr().out


def test_a_checkpoint_of_a_finer_network_becomes_weights(finished, tmp_path):
    output = tmp_path / "w.safetensors"
    convert.main([str(finished.with_name("w.checkpoint.pt")), "--output", str(output)])
    found, expected = read_weights(output), read_weights(finished)
    assert found.metadata.architecture == expected.metadata.architecture
    assert all(np.array_equal(a, found.tensors[n]) for n, a in expected.tensors.items())


def test_a_finer_run_resumes_to_the_same_weights(finished, voc_folder, tmp_path, monkeypatch):
    options = ["--data", voc_folder, "--init", finished, "--architecture", "fcn8s", "--epochs", 1,
               "--ema-decay", 0.5, "--val-image-set", "none", *SMALL]  # fmt: skip
    run(*options, "--output", tmp_path / "a.safetensors")
    take_step = train.Training.train_step

    def interrupted(training, *batch):
        loss = take_step(training, *batch)
        if training.step == 2:
            signal.raise_signal(signal.SIGINT)
        return loss

    monkeypatch.setattr(train.Training, "train_step", interrupted)
    run(*options, "--output", tmp_path / "b.safetensors", status=130)
    monkeypatch.undo()
    run(*options, "--output", tmp_path / "b.safetensors", "--resume")
    one, other = (read_weights(tmp_path / f"{name}.safetensors").tensors for name in "ab")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_features_of_frozen_layers_serve_a_finer_network(finished, voc_folder, tmp_path):
    options = ["--data", voc_folder, "--init", finished, "--architecture", "fcn8s", "--epochs", 1,
               "--val-image-set", "none", "--views", 2, "--frozen", "conv1", "bn1", "layer1",
               "layer2", "layer3", *SMALL]  # fmt: skip
    run(*options, "--output", tmp_path / "a.safetensors")
    run(*options, "--output", tmp_path / "b.safetensors", "--feature-cache", tmp_path / "features")
    one, other = (read_weights(tmp_path / f"{name}.safetensors").tensors for name in "ab")
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


def test_skips_are_added_and_never_removed(finished, weights_file):
    network, _, _ = start(finished, "fcn8s")
    assert network.skip_convs.layer2.weight.any()
    for coarser in ("fcn32s", "fcn16s"):
        with pytest.raises(RecipeError, match=r"is fcn8s.* with --architecture fcn8s"):
            start(finished, coarser)
