"""The rules of the code: which room may import which, and how long files and functions are."""

import ast
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


def imports(package):
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield path, alias.name
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield path, node.module
                for alias in node.names if node.module in (package, "model", "app") else ():
                    yield path, f"{node.module}.{alias.name}"


APP = (
    {"cli"},
    {"ray"},
    {"__main__", "keys", "openapi"},
    {"process"},
    {"main"},
    {"routes"},
    {"tasks"},
    {"service"},
    {"sharing"},
    {"loading", "state"},
    {"codecs", "access", "client"},
    {"http"},
    {"scheduling"},
    {"observability"},
    {"protocol_schemas", "file_schemas"},
    {"arguments", "schemas", "environment"},
    {"settings"},
    {"setting_syntax"},
    {"errors", "formats"},
)
"""The rooms of app/, from the top to the bottom floor."""

MODEL = (
    {"measured_card", "installation"},
    {
        "train",
        "evaluate",
        "compare",
        "convert",
        "export",
        "card",
        "gallery",
        "soft_labels",
        "shapes",
        "soup",
    },
    {"quality_figures"},
    {"training"},
    {"averaging"},
    {"predictor", "quality", "comparison"},
    {"golden"},
    {"state_dict", "arguments"},
    {"engines", "network", "scaling"},
    {"weights", "confusion", "class_list"},
    {"metadata"},
    {"classes"},
    {"outputs"},
    {"errors", "extras", "pictures", "architectures"},
)


@pytest.mark.parametrize(("package", "floors"), [("app", APP), ("model", MODEL)])
def test_every_room_imports_only_from_the_floors_below(package, floors):
    floor_of = {room: number for number, rooms in enumerate(floors) for room in rooms}
    upward = []
    for path, name in imports(package):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        room = path.relative_to(REPOSITORY / package).parts[0].removesuffix(".py")
        if top != package or target in ("", "__version__", room) or room == "__init__":
            continue
        if floor_of[target] <= floor_of[room]:
            upward.append(f"{path.relative_to(REPOSITORY)} imports {name}")
    assert upward == []


def test_scheduling_and_errors_know_nothing_of_http():
    libraries = {"fastapi", "starlette", "uvicorn", "http", "httptools"}
    below = ("app/scheduling", "app/errors.py", "app/formats.py")
    found = [
        f"{path} imports {name}"
        for path, name in imports("app")
        if str(path.relative_to(REPOSITORY)).startswith(below) and name.split(".")[0] in libraries
    ]
    assert found == []


def test_model_never_imports_app():
    assert [p for p, name in imports("model") if name.split(".")[0] == "app"] == []


def test_app_knows_only_the_predictor_its_contract_classes_and_weights():
    allowed = {
        f"model.{name}"
        for name in ("predictor", "scaling", "pictures", "classes", "weights", "errors")
    }
    allowed.add("model.engines.base")
    used = {name for _, name in imports("app") if name.split(".")[0] == "model"}
    assert used <= allowed


@pytest.mark.parametrize("module", ["app.main", "app.__main__", "model.predictor"])
def test_the_http_side_imports_no_torch(module):
    code = f"import {module}, sys; print([m for m in sys.modules if m.split('.')[0] == 'torch'])"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("engine", "absent"),
    [
        ("native", ["torch", "ncnn", "torchvision", "matplotlib", "tqdm"]),
        ("ncnn", ["torch", "torchvision", "matplotlib", "tqdm"]),
        ("torch", ["ncnn", "torchvision", "matplotlib", "tqdm"]),
    ],
)
def test_an_engine_needs_no_other_and_nothing_of_training(weights_file, engine, absent):
    code = (
        "import sys\n"
        f"for name in {absent}: sys.modules[name] = None\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from model.predictor import open_predictor\n"
        f"open_ = open_predictor(Path({str(weights_file)!r}), engine={engine!r}, device='cpu')\n"
        "print(open_(np.zeros((40, 50, 3), np.uint8)).shape)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "(40, 50)"


def test_every_module_says_what_it_is_for():
    for package in ("app", "model"):
        for path in (REPOSITORY / package).rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path


NO_VERBS = {"The", "A", "An", "Each", "Every", "Whether"}


def is_value(function):
    """Return whether the function is a property, or an endpoint, which the API's users read."""
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    return any("property" in one or one.startswith("router.") for one in decorators)


@pytest.mark.parametrize("room", ["app", "model", "benchmarks"])
def test_docstrings_of_functions_begin_with_a_verb(room):
    nouns = []
    for path in sorted((REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_value(node):
                continue
            text = ast.get_docstring(node) or ""
            if text.partition(" ")[0] in NO_VERBS and not node.name.startswith("__"):
                nouns.append(f"{path.relative_to(REPOSITORY)}: {node.name}: {text[:40]}")
    assert nouns == []


def test_the_page_names_every_room_and_only_files_that_exist():
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:app|model|tests|benchmarks|deploy|docs)/[^`]*)`", page))
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
    folders = {
        f"{path.parent.relative_to(REPOSITORY)}/"
        for package in ("app", "model")
        for path in (REPOSITORY / package).glob("*/__init__.py")
    }
    assert folders <= named


MAX_DOCUMENT_COLUMNS = 120


def test_no_line_of_a_document_is_too_wide():
    too_wide = [
        f"{path.relative_to(REPOSITORY)}, line {number}, has {len(line)} columns"
        for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > MAX_DOCUMENT_COLUMNS
    ]
    assert too_wide == []


MAX_FILE_LINES = 250
MAX_FUNCTION_LINES = 40
ROOMS = ("app", "model", "benchmarks", "deploy")


def list_functions(path):
    """The name of each function, and how many lines it has."""
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, node.end_lineno - node.lineno + 1
        return
    # clang-format indents all but the first and the last line of a C function.
    function, start = "", 0
    for number, line in enumerate(path.read_text().splitlines()):
        if line[:1].isalpha() and "(" in line:
            function, start = line, number
        elif line == "}" and function:
            yield function, number - start + 1
            function = ""


@pytest.mark.parametrize("room", [*ROOMS, "tests/native"])
def test_every_file_and_every_function_is_short_enough_to_read(room):
    too_long = []
    for path in sorted((REPOSITORY / room).rglob("*")):
        if path.suffix not in (".py", ".c", ".h"):
            continue
        name, lines = path.relative_to(REPOSITORY), len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES:
            too_long.append(f"{name} has {lines} lines")
        for function, lines in list_functions(path):
            if lines > MAX_FUNCTION_LINES:
                too_long.append(f"{name}: {function} has {lines} lines")
    assert too_long == []


def test_the_top_level_has_only_the_expected_files():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    top = {name.split("/")[0] for name in tracked}
    allowed = {
        "app", "model", "tests", "benchmarks", "deploy", "docs", "Dockerfile",
        "docker-compose.yml", "pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "LICENSE",
    }  # fmt: skip
    assert {name for name in top if not name.startswith(".")} <= allowed
