"""What the README and the documentation say is so."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from app.http.problems import PROBLEMS
from app.settings import PREFIX, Settings
from model import convert, evaluate, shapes, soft_labels
from model.training.options import build_parser
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
TRAINING = (REPOSITORY / "docs" / "training.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S).group(1)


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def table(text):
    """The rows of the first table: lists of cells, without the head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_commands_work(server, tmp_path):
    (block,) = code_blocks(section(README, "Use"), "bash")
    for command in block.strip().splitlines():
        words = shlex.split(command.replace(ADDRESS, server.address))
        words[words.index("-o") + 1] = str(tmp_path / words[words.index("-o") + 1])
        words = [word.replace("@docs", f"@{REPOSITORY}/docs") for word in words]
        subprocess.run([*words, "--fail", "--silent", "--show-error"], check=True)
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert np.array_equal(np.load(tmp_path / "mask.npy"), mask)
    assert np.array_equal(json.loads((tmp_path / "mask.json").read_text())["mask"], mask)


def test_the_python_example_works(server):
    (block,) = code_blocks(section(README, "Use"), "python")
    output = subprocess.run(
        [sys.executable, "-c", block.replace(ADDRESS, server.address)],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert output.startswith("(300, 451) uint8 [")


def test_the_json_example_has_the_fields_of_an_answer(client):
    (block,) = code_blocks(section(README, "Use"), "json")
    example = json.loads(block)
    photo = (REPOSITORY / "docs/images/cat.jpg").read_bytes()
    answer = client.post("/v1/segment?format=json", content=photo).json()
    assert list(example) == list(answer)
    assert list(example["classes"][0]) == list(answer["classes"][0])
    assert sum(entry["pixels"] for entry in example["classes"]) == 300 * 451


def test_the_endpoints_are_those_of_the_application(client):
    described = client.get("/openapi.json").json()["paths"]
    own = {f"`{method.upper()} {path}`" for path, item in described.items() for method in item}
    listed = {row[0] for row in table(section(README, "Endpoints"))}
    assert listed == own | {"`GET /docs`"}


def test_the_errors_are_those_of_the_application():
    listed = {(row[0].strip("`"), int(row[1])) for row in table(section(README, "Errors"))}
    assert listed == {(problem.name, int(problem.status)) for problem in PROBLEMS.values()}


def test_the_settings_are_those_of_the_application():
    listed = {row[0].strip("`"): row[1:] for row in table(section(README, "Settings"))}
    own = {PREFIX + name.upper(): field for name, field in Settings.model_fields.items()}
    assert listed.keys() == own.keys()
    for name, field in own.items():
        default, description = listed[name]
        assert description == field.description
        if name != "SEG_WEIGHTS":
            assert default == ("none" if field.default in (None, "") else f"`{field.default}`")


def test_the_commands_use_options_that_exist():
    parsers = {
        "model.train": build_parser(None),
        "model.evaluate": evaluate._parser(),
        "model.convert": convert._parser(),
        "model.shapes": shapes._parser(),
        "model.soft_labels": soft_labels._parser(),
    }
    seen = set()
    for block in code_blocks(README + TRAINING, "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if "-m" in words and words[words.index("-m") + 1] in parsers:
                module = words[words.index("-m") + 1]
                parsers[module].parse_args(words[words.index("-m") + 2 :])
                seen.add(module)
    assert seen == parsers.keys()


def test_the_files_that_are_linked_exist():
    for path in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links {target}"


def test_the_notebook_example_works(tmp_path):
    (block,) = code_blocks(section(TRAINING, "What the notebook does, with this project"), "python")
    output = subprocess.run(
        [sys.executable, "-c", block.replace('"mask.png"', repr(str(tmp_path / "mask.png")))],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert output.splitlines() == ["torch.Size([1, 512, 10, 15])", "torch.Size([1, 3, 600, 902])"]
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.size == (451, 300)
