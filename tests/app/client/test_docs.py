"""The examples of docs/client.md run, and its defaults are those of the code."""

import dataclasses
import inspect
import re
import subprocess
import sys

import pytest

from app.client import Client, Retries, errors
from tests.app.test_readme import ADDRESS, code_blocks
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "client.md").read_text()


@pytest.mark.parametrize("block", code_blocks(PAGE, "python"))
def test_the_code_runs(block, server, tmp_path):
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    ended = subprocess.run(
        [sys.executable, "-c", block.replace(ADDRESS, server.address)],
        cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    if "result.save" in block:
        assert ended.stdout.startswith("(300, 451) uint8\n")
        assert {path.name for path in tmp_path.iterdir()} == {"docs", "mask.png", "overlay.jpg"}
    else:
        assert ended.stdout


def test_the_options_and_their_defaults_are_the_codes():
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([\w.]+) \|", PAGE, re.M))
    parameters = list(inspect.signature(Client.__init__).parameters.values())[2:]
    expected = {p.name: p.default for p in parameters if p.name != "retries"}
    fields = dataclasses.fields(Retries)
    expected |= {f"retries.{f.name}": f.default for f in fields if f.name != "draw"}
    assert rows == {name: "none" if v is None else str(v) for name, v in expected.items()}


def test_every_exception_is_listed():
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Errors")[2], re.M))
    tree = set(re.findall(r"^ {6}(\w+)", errors.__doc__, re.M))
    raised = {name for name in vars(errors) if inspect.isclass(getattr(errors, name))}
    assert tree == raised - {"ClientError", "ProblemDetails"}
    assert tree <= listed
