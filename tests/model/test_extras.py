"""The commands of training and measuring, when only the service's packages are installed."""

import json
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


NOT_OF_THE_SERVICE = [
    *("torch", "torchvision", "matplotlib", "scipy", "tensorboard", "onnx", "ray", "simpy"),
    *("redis", "pyarrow", "fsspec", "pytest", "hypothesis", "moto", "flask"),
]

RUN_ALL = f"""
import contextlib, io, json, runpy, sys, traceback

for name in {NOT_OF_THE_SERVICE}:
    sys.modules[name] = None
ends = {{}}
for module, arguments in json.loads(sys.argv[1]).items():
    sys.argv[1:] = arguments
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            ends[module] = runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            ends[module] = ended.code or out.getvalue()
        except BaseException:
            ends[module] = traceback.format_exc()
print(json.dumps(ends))
"""

COMMANDS = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__main__")
    for path in (*REPOSITORY.glob("model/*.py"), *REPOSITORY.glob("benchmarks/**/*.py"))
    if '\nif __name__ == "__main__":\n    main()' in path.read_text()
)

NEEDED = {
    "model.train": "torch, torchvision, matplotlib",
    "model.evaluate": "torch, torchvision",
    "model.compare": "torch",
    "model.convert": "torch, torchvision",
    "model.soup": "torch, torchvision",
    "model.measured_card": "torch, torchvision, matplotlib",
    "model.soft_labels": "torch, torchvision",
    "model.export": "onnx",
    "benchmarks.augmentation": "torch, torchvision",
    "benchmarks.bulk": "ray",
    "benchmarks.engine": "torch, torchvision",
    "benchmarks.gpu": "torch, torchvision",
    "benchmarks.naive_server": "torch, torchvision",
    "benchmarks.ray_serve": "ray",
    "benchmarks.scale": "simpy, matplotlib",
    "benchmarks.server": "torch, torchvision",
    "benchmarks.soak": "matplotlib",
    "benchmarks.train": "torch, torchvision",
}

HELPS_WITHOUT = {f"benchmarks.{name}" for name in ("bulk", "ray_serve", "server", "soak")}


@pytest.fixture(scope="module")
def ends():
    """How each command ends: what it prints, its error, or its traceback.

    One process runs them all, which imports everything once.
    """
    arguments = {name: ["--quick" if name in HELPS_WITHOUT else "--help"] for name in COMMANDS}
    ended = subprocess.run(
        [sys.executable, "-c", RUN_ALL, json.dumps(arguments)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    return json.loads(ended.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_helps_or_says_what_to_install(ends, command):
    if command in NEEDED:
        assert ends[command].startswith(f"error: not installed here: {NEEDED[command]}. ")
        assert "install them with: " in ends[command]
        assert "\n" not in ends[command]
    else:
        assert ends[command].startswith("usage: ")


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
