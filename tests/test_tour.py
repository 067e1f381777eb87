"""The way back from the teaching notebook: the page and the Jupyter notebook are one, and run."""

import json
import subprocess
import sys

import numpy as np
from PIL import Image

from tests.conftest import REPOSITORY
from tests.tour import NOTEBOOK, PAGE, build_notebook, code_cells

EXECUTE = """
import json, sys
namespace = {"__name__": "__main__"}
for number, cell in enumerate(json.loads(sys.stdin.read())):
    exec(compile(cell, f"cell {number}", "exec"), namespace)
"""


def test_the_notebook_is_the_page():
    assert NOTEBOOK.read_text() == build_notebook(PAGE.read_text()), "python -m tests.tour"


def test_every_cell_of_the_notebook_runs(tmp_path):
    for name in ("model", "docs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "somewhere").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", EXECUTE], input=json.dumps(code_cells(NOTEBOOK.read_text())),
        cwd=tmp_path / "somewhere", capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    told = ended.stdout.splitlines()
    assert told[0] == "(300, 451, 3)"
    assert "torch.Size([1, 512, 10, 15])" in told
    assert "torch.Size([1, 21, 320, 480])" in told
    assert "torch.Size([1, 3, 300, 451]) torch.Size([600, 902, 3])" in told
    assert "True" in told
    (prediction,) = [line for line in told if line.startswith("(300, 451) [")]
    assert "'cat'" in prediction
    work = tmp_path / "build" / "tour"
    with Image.open(work / "doubled.png") as doubled:
        assert doubled.size == (902, 600)
    with Image.open(work / "samples.png") as samples:
        assert np.asarray(samples).std() > 0
    assert (work / "runs" / "d2l.curves.png").is_file()
    assert (work / "notebook.safetensors").is_file()
