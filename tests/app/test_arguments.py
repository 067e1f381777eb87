"""The command line of the programs that people start."""

import subprocess
import sys
from functools import cache

import pytest

from app import __version__
from app.arguments import parse_arguments
from app.settings import PREFIX, Settings
from tests.app.test_program import logged, program
from tests.conftest import REPOSITORY


def run(*command):
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("module", ["app", "app.keys"])
def test_help_and_version_start_nothing(module):
    helped = run(module, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"usage: python -m {module} ")
    told = run(module, "--version")
    assert (told.returncode, told.stdout, told.stderr) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["app", "nonsense"], "python -m app: error: unrecognized arguments: nonsense"),
        (["app", "--nonsense"], "python -m app: error: unrecognized arguments: --nonsense"),
        (["app", "--por", "1"], "python -m app: error: unrecognized arguments: --por 1"),
        (["app", "--port"], "python -m app: error: argument --port: expected one argument"),
        (["app", "--port", "many"], "error: --port many: Input should be a valid integer"),
        (["app", "--port", "99999"], "error: --port 99999: Input should be less than or equal"),
        (["app.keys", "a", "b"], "python -m app.keys: error: unrecognized arguments: b"),
        (
            ["app.keys", "a", "--adm"],
            "python -m app.keys: error: unrecognized arguments: --adm",
        ),
        (
            ["app.keys"],
            "python -m app.keys: error: the following arguments are required: NAME",
        ),
    ],
)
def test_unknown_and_invalid_arguments_are_errors(command, message):
    ended = run(*command)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(message)
    assert ended.stdout == ""


def test_every_setting_is_an_option():
    options = [f"--{name.replace('_', '-')}" for name in Settings.model_fields]
    given, _ = parse_arguments([word for option in options for word in (option, "7")])
    assert given == {PREFIX + name.upper(): "7" for name in Settings.model_fields}
    assert parse_arguments([]) == ({}, None)
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} VALUE" in run_help()
        assert " ".join(field.description.split()) in " ".join(run_help().split())


@cache
def run_help():
    return run("app", "--help").stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_an_option_overrides_its_variable_and_reaches_the_workers(weights_file, workers):
    variables = {"weights": "/nothing", "port": 1, "device": "cpu", "log_format": "json"}
    options = ["--weights", str(weights_file), "--port", "0", "--workers", str(workers)]
    with program(*options, **variables) as process:
        ready = logged(process, "ready")
        assert not ready["address"].endswith(":1")


def test_an_empty_variable_counts_as_unset(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.setenv(PREFIX + name.upper(), "")
    assert Settings() == Settings.model_construct()
