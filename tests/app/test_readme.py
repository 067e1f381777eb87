"""The commands and the code of both READMEs run; docs/training.md has options that exist."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from model import convert, evaluate, shapes, soft_labels
from model.training.options import build_parser
from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
CHINESE = (REPOSITORY / "docs" / "README.zh.md").read_text()
TRAINING = (REPOSITORY / "docs" / "training.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S).group(1)


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


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


def test_the_client_works(server, tmp_path):
    (block,) = code_blocks(section(README, "Client and command line"), "python")
    code = block.replace(ADDRESS, server.address).replace("docs/", f"{REPOSITORY}/docs/")
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert output.startswith("(300, 451) [")
    assert {path.name for path in tmp_path.iterdir()} == {"mask.png", "overlay.jpg"}


def test_the_chinese_readme_has_the_same_code_pictures_and_pages():
    def read(text, pattern):
        return [re.sub(r" *#.*", "", found) for found in re.findall(pattern, text, re.M | re.S)]

    code = r"^```\w+\n.*?^```"
    assert read(CHINESE, code) == read(README, code)
    pictures = r"!\[[^]]*\]\((?:docs/)?(images/[^)]*)\)"
    assert read(CHINESE, pictures) == read(README, pictures)
    pages = r"\]\((?:docs/)?([\w-]+\.(?:md|ipynb))"
    assert set(read(CHINESE, pages)) == set(read(README, pages)) - {"README.zh.md"}


def test_the_json_example_has_the_fields_of_an_answer(client):
    (block,) = code_blocks(section(README, "Use"), "json")
    example = json.loads(block)
    photo = (REPOSITORY / "docs/images/cat.jpg").read_bytes()
    answer = client.post("/v1/segment?format=json", content=photo).json()
    assert list(example) == list(answer)
    assert list(example["classes"][0]) == list(answer["classes"][0])
    assert sum(entry["pixels"] for entry in example["classes"]) == 300 * 451


def test_the_commands_use_options_that_exist():
    parsers = {
        "model.train": build_parser(None),
        "model.evaluate": evaluate.build_parser(),
        "model.convert": convert.build_parser(),
        "model.shapes": shapes.build_parser(),
        "model.soft_labels": soft_labels.build_parser(),
    }
    seen = set()
    for block in code_blocks(README + TRAINING, "bash"):
        for line in block.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if "-m" in words and words[words.index("-m") + 1] in parsers:
                module = words[words.index("-m") + 1]
                parsers[module].parse_args(words[words.index("-m") + 2 :])
                seen.add(module)
    assert seen == parsers.keys()
