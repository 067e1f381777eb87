"""The training commands, when only the service's packages are installed."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

OF_TRAINING = ("torch", "torchvision", "matplotlib", "tqdm", "tensorboard")


def run_without(packages, module, *arguments):
    code = (
        "import runpy, sys\n"
        f"for name in {packages}: sys.modules[name] = None\n"
        f"sys.argv[1:] = {list(arguments)}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "arguments", "missing"),
    [
        ("model.train", ["--data", "x"], "torch, torchvision, matplotlib, tqdm"),
        ("model.train", ["--help"], "torch, torchvision, matplotlib, tqdm"),
        ("model.evaluate", ["--data", "x"], "torch, torchvision, tqdm"),
        ("model.compare", ["x", "y", "--data", "z"], "torch, tqdm"),
        ("model.convert", ["x", "--output", "y"], "torch, torchvision"),
    ],
)
def test_a_training_command_says_what_to_install(module, arguments, missing):
    ended = run_without(OF_TRAINING, module, *arguments)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: not installed here: {missing}. ")
    assert "make training" in line


@pytest.mark.parametrize(
    ("module", "option", "missing"),
    [
        ("model.train", ["--tensorboard"], "tensorboard"),
        ("model.train", ["--download", "--image-set", "train_aug"], "scipy"),
        ("model.evaluate", ["--output", "figure.png"], "matplotlib"),
    ],
)
def test_an_option_that_needs_more_says_so_before_anything_begins(module, option, missing):
    ended = run_without((missing,), module, "--data", "/nothing", *option)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: not installed here: {missing}. ")


def test_an_export_names_its_own_extra():
    ended = run_without(("onnx",), "model.export", "x", "--output", "y")
    assert ended.stderr == (
        "error: not installed here: onnx. The service does not need them; install them with: "
        "pip install '.[onnx]'\n"
    )


def test_a_card_needs_no_training_packages():
    weights = "model/weights/fcn_resnet18_voc.safetensors"
    ended = run_without(OF_TRAINING, "model.card", weights)
    assert ended.stdout.startswith("# fcn_resnet18_voc.safetensors"), ended.stderr
