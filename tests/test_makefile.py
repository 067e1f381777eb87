"""`make serve` on machines where something is missing; nothing is downloaded."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

NOBODY = 65534


@pytest.fixture
def checkout():
    """A folder with a space in its name, as its owner and others see it; nothing to install."""
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        folder = Path(parent) / "a folder"
        requirements = folder / "deploy" / "requirements"
        requirements.mkdir(parents=True)
        for name in ("base", "serve"):
            (requirements / f"{name}.txt").touch()
        shutil.copy(REPOSITORY / "Makefile", folder)
        (folder / "app").mkdir()
        (folder / "app" / "__main__.py").write_text("print('serving')")
        library = folder / "model" / "engines" / "native" / "library.py"
        library.parent.mkdir(parents=True)
        library.write_text("raise SystemExit('error: no C compiler (cc) to build it with')")
        yield folder


def make(folder, *arguments, python=sys.executable, **options):
    # `make test` sets these for its own children; with them, another make writes of folders, too.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    inherited.pop("MFLAGS", None)
    return subprocess.run(
        ["make", *arguments, f"PYTHON={python}"],
        cwd=folder, env=inherited, capture_output=True, text=True, timeout=300, check=False,
        **options,
    )  # fmt: skip


def script(folder, text):
    """A Python that answers `-c` and `-m venv FOLDER` alone; its path has a space."""
    path = folder.parent / "other programs" / "python"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nif [ "$1" = -c ]; then exit 0; fi\n{text}\n')
    path.chmod(0o755)
    return path


def test_without_python3_venv_every_attempt_explains_and_the_next_one_with_it_works(checkout):
    debian = script(
        checkout,
        f'"{sys.executable}" -m venv --without-pip "$3"\n'
        'echo "The virtual environment was not created successfully because ensurepip is not'
        ' available."\nexit 1',
    )
    for _ in range(3):
        failed = make(checkout, "serve", python=debian)
        assert failed.returncode != 0
        assert "ensurepip is not available" in failed.stdout
        assert "apt install python3-venv" in failed.stderr
        assert "No module named pip" not in failed.stdout + failed.stderr
    served = make(checkout, "serve")
    assert served.returncode == 0, served.stderr
    assert served.stdout.splitlines()[-1] == "serving"
    assert "no C compiler" in served.stderr
    assert "the slower ncnn is used instead" in served.stdout


def test_who_may_not_write_here_is_told_where_else(checkout):
    python = script(checkout, 'mkdir "$3"')
    if os.geteuid() == 0:
        failed = make(checkout, "serve", python=python, user=NOBODY, group=NOBODY, extra_groups=())
    else:
        checkout.chmod(0o555)
        failed = make(checkout, "serve", python=python)
        checkout.chmod(0o755)
    assert failed.returncode != 0
    assert "Permission denied" in failed.stderr
    assert "make serve VENV=$HOME/segmentation-environment" in failed.stderr


def test_help_lists_every_target(checkout):
    listed = make(checkout, "help").stdout
    (phony,) = [
        line.split()[1:]
        for line in (checkout / "Makefile").read_text().splitlines()
        if line.startswith(".PHONY:")
    ]
    assert [line.split("\t")[0] for line in listed.splitlines()] == phony
