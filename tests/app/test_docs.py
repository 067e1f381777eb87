"""The documents agree with the code: endpoints, problems, settings, links, widths."""

import re
import shutil
import subprocess

import pytest

from app.http.problems import PROBLEMS
from app.settings import PREFIX, Settings
from tests.app.test_readme import section
from tests.conftest import REPOSITORY

DOCUMENTS = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
API = (REPOSITORY / "docs" / "api.md").read_text()
SETTINGS = (REPOSITORY / "docs" / "settings.md").read_text()
WIDEST_LINE = 120


def table(text):
    """Return the rows of the first table as lists of cells, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_endpoints_are_those_of_the_application(client):
    described = client.get("/openapi.json").json()["paths"]
    own = {f"`{method.upper()} {path}`" for path, item in described.items() for method in item}
    listed = {row[0] for row in table(section(API, "Endpoints"))}
    assert listed == own | {"`GET /`", "`GET /docs`"}


def test_the_errors_are_those_of_the_application():
    listed = {(row[0].strip("`"), int(row[1])) for row in table(section(API, "Errors"))}
    assert listed == {(problem.name, int(problem.status)) for problem in PROBLEMS.values()}


def test_the_settings_are_those_of_the_application():
    entries = re.findall(r"^- `(SEG_\w+)`, default (.*?): (.*(?:\n  .*)*)", SETTINGS, re.M)
    listed = {name: (default, " ".join(text.split())) for name, default, text in entries}
    assert len(listed) == len(entries)
    own = {PREFIX + name.upper(): field for name, field in Settings.model_fields.items()}
    assert listed.keys() == own.keys()
    for name, field in own.items():
        default, description = listed[name]
        assert description == field.description
        if name != "SEG_WEIGHTS":
            assert default == ("none" if field.default in (None, "") else f"`{field.default}`")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_files_and_sections_that_are_linked_exist(path):
    for target, _, anchor in links(path):
        linked = (path.parent / target).resolve() if target else path
        assert linked.exists(), f"{path.name} links {target}"
        if anchor:
            assert anchor in anchors(linked.read_text()), f"{path.name} links {target}#{anchor}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_files_that_are_named_exist(path):
    folders = "app|model|tests|benchmarks|deploy|docs"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", path.read_text())
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_line_is_wider_than_a_screen(path):
    lines = path.read_text().splitlines()
    wide = [number for number, line in enumerate(lines, 1) if len(line) > WIDEST_LINE]
    assert wide == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_commands_work(server, tmp_path):
    blocks = re.findall(r"^```bash\n((?:curl|printf) .*?)^```", API, re.M | re.S)
    commands = [
        line for block in blocks for line in re.sub(r"(\|)\n|\\\n", r"\1", block).splitlines()
    ]
    assert len(commands) > 5
    for command in commands:
        run_curl(command, server, tmp_path)


def run_curl(command, server, folder):
    """Run the command against the server, with its output in the folder."""
    command = command.replace("http://127.0.0.1:8000", server.address)
    command = re.sub(r"-o (\S+)", rf"--fail --silent --show-error -o {folder}/\1", command)
    subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=REPOSITORY, check=True)


def links(path):
    """Return target and anchor of each link to a file or a section of this repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    return [target.partition("#") for target in found if "://" not in target]


def anchors(text):
    """Return the names that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
