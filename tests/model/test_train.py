"""Training as people run it: `python -m model.train` on a small VOC folder."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from model import train
from model.classes import CLASSES
from model.convert import convert
from model.errors import CheckpointError
from model.network import FCN
from model.training import validation
from model.training.checkpoint import read_checkpoint
from model.training.loss import PixelLoss
from model.training.optimiser import compute_lr_factor
from model.training.recipe import PRESETS
from model.weights import read_metadata, read_weights
from tests.conftest import REPOSITORY, write_voc

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SMALL = ["--batch-size", "4", "--crop", "64", "64", "--workers", "0", "--backbone", "none"]


def run(*arguments, status=0):
    with pytest.raises(SystemExit) as caught:
        train.main([str(argument) for argument in arguments])
    assert caught.value.code == status


def refuse(message, *arguments):
    with pytest.raises(SystemExit, match=message):
        train.main([str(argument) for argument in arguments])


def command(*arguments):
    return [sys.executable, "-m", "model.train", *map(str, arguments)]


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def same_tensors(first, second):
    one, other = read_weights(first).tensors, read_weights(second).tensors
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def finished(voc_folder, tmp_path_factory):
    """The weights file of a finished run of two epochs of three steps."""
    output = tmp_path_factory.mktemp("run") / "w.safetensors"
    run("--data", voc_folder, "--output", output, "--epochs", 2, "--tensorboard", *SMALL)
    return output


def test_a_run_writes_weights_history_curves_and_a_figure(finished):
    metadata = read_metadata(finished)
    assert metadata.classes == CLASSES
    assert metadata.recipe["name"] == "default"
    assert metadata.recipe["epochs"] == 2
    assert metadata.data == {
        "start": "backbone from a random start: nothing loaded",
        "image_set": "train",
        "images": 12,
    }
    assert metadata.scores["image_set"] == "val"
    assert metadata.scores["images"] == 4

    epochs = read_rows(finished.with_name("w.history.csv"))
    assert [row["epoch"] for row in epochs] == ["1", "2"]
    for row in epochs:
        assert 0 < float(row["loss"]) < 10
        assert 0 <= float(row["train_accuracy"]) <= 1
        assert float(row["images_per_s"]) > 0
    assert epochs[0]["val_mean_iou"] == "", "4 images take a quarter of the time of 12"
    assert 0 <= float(epochs[1]["val_mean_iou"]) <= 1
    steps = read_rows(finished.with_name("w.steps.csv"))
    assert [row["step"] for row in steps] == [str(number) for number in range(1, 7)]
    for name in ("w.curves.png", "w.samples.png"):
        with Image.open(finished.with_name(name)) as picture:
            assert np.asarray(picture).std() > 10, "an empty picture"
    assert list(finished.with_name("w.tensorboard").iterdir())


def test_the_same_seed_gives_the_same_weights(finished, voc_folder, tmp_path):
    options = ["--data", voc_folder, "--epochs", 2, *SMALL]
    run(*options, "--output", tmp_path / "same.safetensors", "--workers", 2)
    run(*options, "--output", tmp_path / "other.safetensors", "--seed", 1)
    assert finished.read_bytes() == (tmp_path / "same.safetensors").read_bytes()
    assert not same_tensors(finished, tmp_path / "other.safetensors")


@pytest.mark.parametrize("last_step", [3, 4, 6])
def test_an_interrupted_run_is_saved_and_resumes_to_the_same_weights(
    finished, voc_folder, tmp_path, monkeypatch, capsys, last_step
):
    """After 3 steps an epoch is complete but not ended; after 6 steps the whole run is."""
    output = tmp_path / "w.safetensors"
    options = ["--data", voc_folder, "--output", output, "--epochs", 2, *SMALL]
    take_step = train.Training.train_step

    def interrupted(training, images, target):
        loss = take_step(training, images, target)
        if training.step == last_step:
            signal.raise_signal(signal.SIGINT)
        return loss

    monkeypatch.setattr(train.Training, "train_step", interrupted)
    run(*options, status=130)
    assert "--resume" in capsys.readouterr().out
    assert not output.exists()
    monkeypatch.undo()

    run(*options, "--resume")
    assert f"resumed after step {last_step} of 6" in capsys.readouterr().out
    assert same_tensors(finished, output)
    without_speed = [
        {name: value for name, value in row.items() if name != "images_per_s"}
        for path in (finished, output)
        for row in read_rows(path.with_name("w.history.csv"))
    ]
    assert without_speed[:2] == without_speed[2:]
    steps = [read_rows(path.with_name("w.steps.csv")) for path in (finished, output)]
    assert steps[0] == steps[1]


def test_an_earlier_run_is_not_overwritten_without_the_option(finished, voc_folder, tmp_path):
    options = ["--data", voc_folder, "--epochs", 0, *SMALL, "--val-image-set", "none"]
    digest = read_metadata(finished).digest
    refuse(r"w\.safetensors is there already.*--overwrite", *options, "--output", finished)
    assert read_metadata(finished).digest == digest
    output = tmp_path / "w.safetensors"
    (tmp_path / "w.checkpoint.pt").touch()
    refuse(r"w\.checkpoint\.pt is there already", *options, "--output", output)
    run(*options, "--output", output, "--overwrite")
    assert output.exists()
    assert not (tmp_path / "w.checkpoint.pt").exists()


def test_the_best_weights_are_kept_and_a_run_without_progress_ends_early(
    voc_folder, tmp_path, monkeypatch, capsys
):
    """The test sets the mean IoUs, because those of so small a run mean nothing."""
    given = iter([0.3, 0.2, 0.3])
    stored = []
    measure = validation.measure

    def measured(training, images, *, half):
        found = measure(training, images, half=half)
        stored.append(found.weights.tensors["final_conv.bias"].copy())
        return replace(found, validation=replace(found.validation, mean_iou=next(given)))

    monkeypatch.setattr(validation, "measure", measured)
    output = tmp_path / "w.safetensors"
    options = ["--data", voc_folder, "--output", output, "--epochs", 9, *SMALL]
    run(*options, "--patience", 2, "--val-every", 1)
    rows = read_rows(tmp_path / "w.history.csv")
    assert [row["val_mean_iou"] for row in rows] == ["0.3", "0.2", "0.3"]
    best = read_weights(tmp_path / "w.best.safetensors")
    assert np.array_equal(best.tensors["final_conv.bias"], stored[0])
    assert np.array_equal(read_weights(output).tensors["final_conv.bias"], stored[2])
    assert best.metadata.scores["image_set"] == "val"
    assert best.metadata.data["images"] == 12
    assert "after epoch 1: " in capsys.readouterr().out
    output.unlink()
    run(*options, "--patience", 2, "--resume")
    assert len(read_rows(tmp_path / "w.history.csv")) == 3, "it had ended"
    assert output.exists()


def test_a_run_that_diverges_says_so(voc_folder, tmp_path):
    refuse("training diverged; start again with a lower --lr", "--data", voc_folder, "--lr", 1e30,
           "--output", tmp_path / "w.safetensors", "--epochs", 9, *SMALL, "--val-image-set", "none",
           "--warmup-steps", 0)  # fmt: skip
    assert not (tmp_path / "w.safetensors").exists()


def test_a_checkpoint_becomes_weights(finished, tmp_path):
    convert(finished.with_name("w.checkpoint.pt"), tmp_path / "converted.safetensors")
    assert same_tensors(finished, tmp_path / "converted.safetensors")
    found, expected = read_metadata(tmp_path / "converted.safetensors"), read_metadata(finished)
    assert (found.classes, found.recipe) == (expected.classes, expected.recipe)
    assert found.data == expected.data | {"steps": 6, "epochs": 2}


def test_ctrl_c_ends_a_run_cleanly(voc_folder, tmp_path):
    output = tmp_path / "w.safetensors"
    process = subprocess.Popen(
        command("--data", voc_folder, "--output", output, "--epochs", 10_000, *SMALL,
                "--workers", 1, "--val-image-set", "none"),
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line.startswith("epoch 1:"):
                break
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        out, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted after step" in out
    assert read_checkpoint(tmp_path / "w.checkpoint.pt")["step"] >= 3


def test_a_checkpoint_of_another_run_is_refused(finished, voc_folder, tmp_path):
    options = ["--data", voc_folder, *SMALL, "--resume"]
    message = (
        "error: the checkpoint belongs to another run: recipe, epochs was 2, now it is 3. Resume "
        "with the options and the images that the run was started with"
    )
    run(*options, "--output", finished, "--epochs", 3, status=message)
    with pytest.raises(SystemExit, match=r"start was backbone from a random start.*, now it is "):
        train.main(
            ["--data", str(voc_folder), *SMALL[:-2], "--resume", "--output", str(finished),
             "--epochs", "2", "--init", str(finished)]
        )  # fmt: skip
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        read_checkpoint(tmp_path / "w.checkpoint.pt")
    (tmp_path / "w.checkpoint.pt").write_bytes(b"?")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "w.checkpoint.pt")


def test_a_run_is_not_resumed_on_other_images_or_with_other_masks(finished, voc_folder, tmp_path):
    options = ["--output", finished, "--epochs", 2, *SMALL, "--resume"]
    other = shutil.copytree(voc_folder, tmp_path / "other")
    with (other / "VOCdevkit/VOC2012/JPEGImages/train_0005.jpg").open("ab") as file:
        file.write(b"0")
    refuse("another run: digest of the images was", "--data", other, *options)
    entries = [{"name": name} for name in CLASSES]
    entries[3] |= {"colour": "#010203"}
    (tmp_path / "classes.json").write_text(json.dumps({"classes": entries, "void": "#ffffff"}))
    refuse(
        f"another run: colours, {CLASSES[3]} was #808000, now it is #010203; masks, values was",
        *("--data", voc_folder, *options, "--classes", tmp_path / "classes.json"),
        *("--val-image-set", "none"),
    )


def test_two_processes_train_together(voc_folder, tmp_path):
    output = tmp_path / "w.safetensors"
    subprocess.run(
        [*TORCHRUN, "-m", "model.train", "--data", str(voc_folder), "--output", str(output),
         "--preset", "d2l", "--epochs", "1", *SMALL],
        cwd=REPOSITORY, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert read_metadata(output).recipe["world_size"] == 2
    (row,) = read_rows(tmp_path / "w.history.csv")
    assert 2 < float(row["loss"]) < 4
    state = read_checkpoint(tmp_path / "w.checkpoint.pt")
    assert state["step"] == state["run"]["steps per epoch"]


def test_gradients_of_two_processes_add_up_to_those_of_one(tmp_path):
    """The head's gradients of one step. One process has nearly all of the void.

    Batch norms use their stored statistics. Cells without soft labels are uneven, too.
    """
    code = f"""
import sys, torch
from pathlib import Path
from dataclasses import replace
from model.training.distributed import join_group
from model.network import FCN
from model.training.recipe import PRESETS
from model.training.loss import PixelLoss
torch.manual_seed(0)
network = FCN().eval()
images, target = torch.randn(4, 3, 32, 32), torch.randint(0, 21, (4, 32, 32))
soft = torch.rand(4, 4, 4, 21)
target[0, :30] = target[2, 10:] = 255
soft[0] = soft[1, 1:] = 0
with join_group("cpu") as group:
    own = slice(group.rank, None, group.world_size)
    for preset in ("d2l", "default"):
        for soft_weight in (0, 0.5):
            network.zero_grad()
            recipe = replace(PRESETS[preset], soft_weight=soft_weight)
            network.transpose_conv.requires_grad_(recipe.train_transpose_conv)
            loss = PixelLoss(network, recipe, autocast=False, group=group)
            if group.world_size > 1:
                loss = torch.nn.parallel.DistributedDataParallel(loss)
            loss(images[own], target[own], soft[own])[0].backward()
            if group.is_main:
                name = f"{{preset}} {{soft_weight}} {{group.world_size}}"
                torch.save(network.final_conv.weight.grad, Path({str(tmp_path)!r}) / name)
"""
    script = tmp_path / "step.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for launcher in ([sys.executable], TORCHRUN):
        subprocess.run([*launcher, script], check=True, env=environment, cwd=tmp_path)
    for case in ("d2l 0", "d2l 0.5", "default 0", "default 0.5"):
        one, other = (torch.load(tmp_path / f"{case} {processes}") for processes in (1, 2))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("preset", ["d2l", "default"])
@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_in_tiles_is_the_loss_of_full_logits(preset, void, weighted):
    """So are the correct pixels and every gradient."""
    torch.manual_seed(0)
    recipe = PRESETS[preset]
    if weighted:
        recipe = replace(
            recipe,
            class_weights=tuple(0.5 + i / 10 for i in range(21)),
            boundary_weight=2.0,
            hard_share=0.3,
        )
    network = FCN()
    torch.nn.init.normal_(network.transpose_conv.bias)
    network.transpose_conv.requires_grad_(recipe.train_transpose_conv)
    if recipe.train_transpose_conv:
        torch.nn.init.normal_(network.transpose_conv.weight, std=0.1)
    loss = PixelLoss(network, recipe, autocast=False)
    assert loss.interpolates == (preset == "default")
    coarse = torch.randn(3, 21, 2, 4, requires_grad=True)
    target = torch.randint(0, 21, (3, 64, 128), dtype=torch.uint8)
    if void:
        target[0] = target[:, :20] = 255

    leaves = [coarse, *(p for p in network.transpose_conv.parameters() if p.requires_grad)]
    known = target, loss.weigh(target)
    found, found_mass, found_hits = loss.compute_tiled(coarse, *known)
    expected, expected_mass, expected_hits = loss.compute_dense(coarse, *known)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_mass, expected_mass)
    assert found_hits == expected_hits
    gradients = [torch.autograd.grad(0.01 * total, leaves) for total in (found, expected)]
    for own, dense in zip(*gradients, strict=True):
        assert (own - dense).abs().max() < 1e-5 * dense.abs().max()
    with torch.no_grad():
        assert torch.equal(loss.compute_tiled(coarse, *known)[0], found)
        assert loss.compute_tiled(1000 * coarse, *known)[0].isfinite()


def test_presets_say_what_mission_asks_for():
    d2l, default = PRESETS["d2l"], PRESETS["default"]
    assert (d2l.epochs, d2l.batch_size, d2l.crop) == (5, 32, (320, 480))
    assert (d2l.lr, d2l.weight_decay, d2l.momentum) == (1e-3, 1e-3, 0)
    assert d2l.void_is_background
    assert d2l.drop_small_images
    assert d2l.loss_reduction == "image_sum"
    assert not default.void_is_background
    assert not default.drop_small_images
    assert default.lr != default.lr_pretrained


def test_the_learning_rate_warms_up_and_decays():
    recipe = PRESETS["default"]
    factors = [compute_lr_factor(step, 1000, recipe) for step in range(1000)]
    peak = int(np.argmax(factors))
    assert peak == pytest.approx(50, abs=2), "a twentieth of the run"
    assert factors[0] < 0.02
    long = [compute_lr_factor(step, 100_000, recipe) for step in range(1000)]
    assert int(np.argmax(long)) == pytest.approx(recipe.warmup_steps, abs=2)
    short = [compute_lr_factor(step, 60, recipe) for step in range(60)]
    assert max(short) > 0.9
    assert factors[-1] < 0.01
    assert factors[500] == pytest.approx(0.5**0.9)
    assert {compute_lr_factor(step, 10, PRESETS["d2l"]) for step in range(10)} == {1.0}


def test_own_classes_are_trained_and_saved(tmp_path):
    write_voc(tmp_path, [(64, 64)] * 4)
    masks = tmp_path / "VOCdevkit/VOC2012/SegmentationClass"
    for path in masks.iterdir():
        Image.fromarray(np.asarray(Image.open(path)) % 3).save(path)
    (tmp_path / "classes.txt").write_text("background\nship\nquay\n")
    run("--data", tmp_path, "--output", tmp_path / "w.safetensors", "--epochs", 1, *SMALL, "--half",
        "--classes", tmp_path / "classes.txt", "--val-image-set", "train")  # fmt: skip
    weights = read_weights(tmp_path / "w.safetensors")
    assert weights.metadata.classes == ("background", "ship", "quay")
    assert weights.tensors["final_conv.weight"].shape[0] == 3
    assert (tmp_path / "w.safetensors").stat().st_size < 25 * 2**20


def test_the_notebooks_recipe_says_how_many_images_remain(tmp_path, capsys):
    write_voc(tmp_path, [(64, 64), (63, 64), (70, 80), (64, 63), (90, 64), (64, 64)])
    run("--data", tmp_path, "--preset", "d2l", "--output", tmp_path / "w.safetensors", *SMALL,
        "--epochs", 1, "--val-image-set", "train")  # fmt: skip
    said = capsys.readouterr().out
    assert "image set train: 4 of 6 images; 2 smaller than the crop are dropped" in said
    (row,) = read_rows(tmp_path / "w.history.csv")
    assert 0 <= float(row["val_accuracy"]) <= 1
    assert row["val_mean_iou"] == ""


def test_too_few_images_to_validate_on_are_named_before_the_first_step(tmp_path):
    write_voc(tmp_path, [(64, 64)] * 4)
    write_voc(tmp_path, [(64, 64)] * 3, image_set="val")
    with pytest.raises(SystemExit, match="'val' has 3 images, fewer than one batch of 4"):
        train.main(["--data", str(tmp_path), "--preset", "d2l", *SMALL])


@pytest.mark.parametrize("option", ["--no-augment", "--validate-crops"])
def test_images_smaller_than_an_unscaled_crop_are_named_before_the_first_step(
    voc_folder, tmp_path, option
):
    refuse(
        r"of the \d+ images of the set '(train|val)' are smaller than a crop of 96 x 64.*--crop",
        *("--data", voc_folder, *SMALL, "--crop", 96, 64, option),
        *("--output", tmp_path / "w.safetensors"),
    )


def test_own_classes_start_from_the_backbone_of_other_weights(
    tmp_path, voc_folder, weights_file, capsys
):
    (tmp_path / "classes.txt").write_text("\n".join(["background", *map(str, range(24))]))
    options = ["--data", voc_folder, "--init", weights_file, "--batch-size", 4, "--crop", 64, 64,
               "--workers", 0, "--classes", tmp_path / "classes.txt"]  # fmt: skip
    run(*options, "--epochs", 0, "--output", tmp_path / "w.safetensors")
    assert "a new head for 25 classes" in capsys.readouterr().out
    weights, start = read_weights(tmp_path / "w.safetensors"), read_weights(weights_file)
    assert len(weights.metadata.classes) == 25
    assert weights.tensors["final_conv.weight"].shape[0] == 25
    for name in ("backbone.conv1.weight", "backbone.layer4.1.bn2.running_var"):
        assert np.array_equal(weights.tensors[name], start.tensors[name])


def test_wrong_input_ends_with_one_line(tmp_path, voc_folder):
    with pytest.raises(SystemExit, match=r"error: .*--data is the folder that holds"):
        train.main(["--data", str(tmp_path), "--backbone", "nothing.pth"])
    with pytest.raises(SystemExit, match=r"error: nothing\.pth: no such file"):
        train.main(["--data", str(voc_folder), "--backbone", "nothing.pth"])
    with pytest.raises(SystemExit, match="crop of 60 x 64: each side must be a multiple of 32"):
        train.main(["--data", str(voc_folder), "--crop", "60", "64"])
    with pytest.raises(SystemExit, match="batch_size is 0: 1 or more expected"):
        train.main(["--data", str(voc_folder), "--batch-size", "0"])
