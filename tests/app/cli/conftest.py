"""The command line as people run it: in a process of its own."""

import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


def run_fcn(*arguments, cwd=None, **variables):
    """Run `fcn` with only these variables of ours. Its output is not a terminal."""
    ours = ("SEG_", "FCN_", "NO_COLOR")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment |= {"PYTHONPATH": str(REPOSITORY)} | variables
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *map(str, arguments)],
        cwd=cwd or REPOSITORY, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def fcn(tmp_path):
    """`fcn` in an empty folder."""

    def run(*arguments, **variables):
        return run_fcn(*arguments, cwd=tmp_path, **variables)

    return run
