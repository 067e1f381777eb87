"""The wheel: one package with everything inside, which serves from any folder, uncompiled."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.conftest import PHOTO, REPOSITORY

pytest.importorskip("setuptools.command.bdist_wheel")
sys.path.insert(0, str(REPOSITORY / "deploy" / "package"))
import build_backend

sys.path.pop(0)

PATIENT = ("--stuck-after-s", "300", "--deadline-s", "300")
"""The defaults do not hold on one core beside many busy neighbours."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of what git tracks: the build writes into the folder."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "app", "model",
         "deploy/package", "pyproject.toml", "README.md", "LICENSE"],
        cwd=REPOSITORY, capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in filter(None, tracked):
        if (REPOSITORY / name).is_file():  # and not deleted since
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, source / name)
    subprocess.run(
        [sys.executable, "-c",
         "import sys; sys.path.insert(0, 'deploy/package'); import build_backend as b; "
         "b.build_wheel(sys.argv[1])", str(folder)],
        cwd=source, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel, and our environment's packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_paths()["purelib"])
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install",
         "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
    )  # fmt: skip
    return folder / "bin"


def run(command, folder, **variables):
    environment = {"PATH": "/nonexistent", "HOME": str(folder)} | variables
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_the_wheel_has_one_package_with_everything_inside(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fcn_service"}
    tracked = subprocess.run(
        ["git", "ls-files", "app", "model"], cwd=REPOSITORY, capture_output=True, text=True,
        check=True,
    ).stdout.split()  # fmt: skip
    expected = {f"fcn_service/{name}" for name in tracked if (REPOSITORY / name).exists()}
    native = {name for name in names if name.endswith(".so")}
    missing = {name for name in expected - set(names) if not name.endswith((".c", ".h"))}
    assert missing == set()
    assert "fcn_service/build_backend.py" not in names
    if native:
        assert not [name for name in names if name.endswith((".c", ".h"))]
        assert re.search(r"-py3-none-linux_\w+\.whl$", wheel.name)
    else:
        assert wheel.name.endswith("-py3-none-any.whl")


def test_it_serves_from_any_folder_what_it_brought(installed, tmp_path):
    """Beside a folder that is called `app`, without a compiler and without the repository."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('somebody else')")
    environment = {"PATH": "/nonexistent", "HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [installed / "fcn", "serve", "--port", "0", "--device", "cpu", *PATIENT],
        cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    told = []
    try:
        for line in process.stdout:
            told.append(line)
            if line.startswith("Serving on "):
                break
        else:
            raise AssertionError("".join(told))
        address = told[-1].split()[-1]
        answer = httpx.post(f"{address}/v1/segment", content=PHOTO.read_bytes(), timeout=300)
        assert answer.status_code == 200, answer.text
        png = httpx.post(  # a format that a decoder process decodes
            f"{address}/v1/segment", content=answer.content, timeout=300
        )
        assert png.status_code == 200
        info = httpx.get(f"{address}/v1/model", timeout=300).json()
        assert any(entry["name"] == "cat" for entry in info["classes"])
        if sysconfig.get_platform() in ("linux-x86_64", "linux-aarch64"):
            assert info["engine"].startswith(("native", "ncnn"))
        page = httpx.get(address, timeout=300, follow_redirects=True)
        assert page.status_code == 200
        masks = run([installed / "fcn", "segment", PHOTO, "--url", address], tmp_path)
        assert masks.returncode == 0, masks.stderr
        assert (tmp_path / "masks" / "cat.png").read_bytes() == answer.content
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=120)
        print(*told, rest)  # shown where something has failed
    assert process.returncode == 0
    assert "warning" not in "".join(told).lower(), told


def test_workers_start_from_the_installed_package(installed, tmp_path):
    environment = {"PATH": "/nonexistent", "HOME": str(tmp_path), "SEG_LOG_FORMAT": "json"}
    process = subprocess.Popen(
        [installed / "fcn", "serve", "--port", "0", "--workers", "2", "--device", "cpu",
         *PATIENT],
        cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        ready = next(line for line in process.stderr if '"ready"' in line)
        assert "http://127.0.0.1" in ready
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def test_the_client_is_imported_as_people_write_it(installed, tmp_path):
    code = "import fcn_service, sys; assert 'httpx' not in sys.modules; print(fcn_service.Client)"
    told = run([installed / "python", "-c", code], tmp_path)
    assert told.stdout == "<class 'fcn_service.app.client.clients.Client'>\n", told.stderr


def test_the_installed_commands_name_modules_that_are_there(installed, tmp_path):
    helped = run([installed / "fcn", "card", "--help"], tmp_path)
    assert helped.stdout.startswith("usage: fcn card ")
    (module,) = re.findall(r"python -m (\S+)", helped.stdout)
    helped = run([installed / "python", "-m", module, "--help"], tmp_path)
    assert helped.stdout.startswith(f"usage: python -m {module} ")


def test_the_rewriting_moves_imports_and_commands_and_nothing_else():
    source = (
        '"""Run as `python -m app.keys`, or torchrun -m\nmodel.train; app.keys is not moved."""\n'
        "from app import errors\nfrom app.errors import (\n    A,\n)\nfrom model.x import y\n"
        "from apple import z\nfrom . import app\nif x:\n    from model import w\napp.model = 1\n"
        "s = 'from app import t'\n"
    )
    assert build_backend.rewrite(source, "x.py") == (
        '"""Run as `python -m fcn_service.app.keys`, or torchrun -m\nfcn_service.model.train; '
        'app.keys is not moved."""\n'
        "from fcn_service.app import errors\nfrom fcn_service.app.errors import (\n    A,\n)\n"
        "from fcn_service.model.x import y\nfrom apple import z\nfrom . import app\nif x:\n"
        "    from fcn_service.model import w\napp.model = 1\ns = 'from app import t'\n"
    )
    with pytest.raises(build_backend.ExecError, match=r"write `from model\.x import"):
        build_backend.rewrite("import model.x\n", "x.py")


def test_every_module_of_the_repository_can_be_rewritten():
    for folder in build_backend.MOVED:
        for path in (REPOSITORY / folder).rglob("*.py"):
            rewritten = build_backend.rewrite(path.read_text(), str(path))
            compile(rewritten, str(path), "exec")
            assert not re.search(r"^\s*from (app|model)\b", _without_texts(rewritten), re.M), path


def _without_texts(source):
    return re.sub(r'"""(.*?)"""', "", source, flags=re.S)


def test_a_build_without_a_compiler_keeps_the_sources(wheel, tmp_path):
    """Such a wheel is for every platform; the installed service compiles, or uses ncnn."""
    source = Path(wheel).parent / "source"
    built = subprocess.run(
        [sys.executable, "-c",
         "import sys; sys.path.insert(0, 'deploy/package'); import build_backend as b; "
         "b.build_wheel(sys.argv[1])", str(tmp_path)],
        cwd=source, capture_output=True, text=True, check=False,
        env=os.environ | {"PATH": "/nonexistent", "CC": ""},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (pure,) = tmp_path.glob("*.whl")
    assert pure.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(pure) as file:
        names = file.namelist()
    assert [name for name in names if name.endswith(".c")]
    assert not [name for name in names if name.endswith(".so")]
