"""`fcn check` tells the truth, and names a remedy for every problem."""

import json
import socket
import subprocess
import sys

import pytest

from app.access.keys import format_line, make_key
from app.cli import check
from model import installation
from model.installation import Driver, check_gpu, check_torch
from tests.app.cli.conftest import run_fcn
from tests.conftest import REPOSITORY


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def test_a_working_installation_passes_every_check(weights_file, tmp_path):
    (tmp_path / "keys.txt").write_text(format_line("user", make_key(), admin=False) + "\n")
    ended = run_fcn(
        "check", cwd=tmp_path, SEG_PORT=free_port(), SEG_WEIGHTS=str(weights_file),
        SEG_DEVICE="cpu", SEG_KEYS_FILE="keys.txt",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "WRONG" not in ended.stdout
    looked_at = {line.split(":")[0] for line in ended.stdout.splitlines()}
    for what in ("port", "keys", "weights and engine", "torchvision"):
        assert f"ok    {what}" in looked_at, ended.stdout
    assert "on cpu" in ended.stdout


def test_every_problem_is_named_with_its_remedy(tmp_path):
    (tmp_path / "keys.txt").write_text("nonsense\n")
    (tmp_path / "weights").write_text("nonsense")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = run_fcn(
            "check", cwd=tmp_path, SEG_PORT=str(port), SEG_WEIGHTS="weights", SEG_DEVICE="cpu",
            SEG_KEYS_FILE="keys.txt", SEG_PROT="1",
        )  # fmt: skip
    assert ended.returncode == 1
    wrong = [line for line in ended.stdout.splitlines() if line.startswith("WRONG")]
    assert [line.split(":")[0].split(maxsplit=1)[1] for line in wrong] == [
        "port", "keys", "weights and engine",
    ]  # fmt: skip
    assert "SEG_PORT=8001" in ended.stdout
    assert "note  settings: SEG_PROT is not a setting" in ended.stdout


def test_invalid_settings_are_named(tmp_path):
    ended = run_fcn("check", cwd=tmp_path, SEG_PORT="many")
    assert ended.returncode == 1
    assert "WRONG settings: SEG_PORT=many" in ended.stdout
    ended = run_fcn("check", cwd=tmp_path, SEG_RATE_STORAGE="redis://me:secret@host:port")
    assert "WRONG settings: SEG_RATE_STORAGE=***" in ended.stdout
    assert "secret" not in ended.stdout + ended.stderr


def test_the_options_of_the_server_override_the_environment(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = str(listener.getsockname()[1])
        ended = run_fcn(
            "check", "--port", taken, "--weights", "none.safetensors", "--device", "cpu",
            cwd=tmp_path, SEG_PORT=free_port(),
        )  # fmt: skip
    assert ended.returncode == 1
    assert f"WRONG port: 127.0.0.1:{taken}" in ended.stdout
    assert "none.safetensors" in ended.stdout
    ended = run_fcn("check", "--port", "many", cwd=tmp_path)
    assert "WRONG settings: --port many" in ended.stdout
    assert run_fcn("check", "--prot", "1", cwd=tmp_path).returncode == 2


def look(code):
    """The findings of `model.installation` after some code in its process."""
    program = f"{code}\nfrom model.installation import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def findings(ended):
    return {found["what"]: found for found in map(json.loads, ended.stdout.splitlines())}


def test_a_torchvision_that_does_not_match_torch_is_reported_with_the_remedy(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    found = findings(look(f"import sys; sys.path.insert(0, {str(tmp_path)!r})"))["torchvision"]
    assert found["status"] == "wrong"
    assert "operator torchvision::nms does not exist" in found["finding"]
    assert "pip install" in found["remedy"]


def test_the_other_checks_run_without_a_compiler_or_torch():
    found = findings(
        look(
            "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
            "from model.engines.native import library; from model.errors import EngineError\n"
            "def prepare(): raise EngineError('no C compiler')\n"
            "library.prepare = prepare\n"
            "import importlib.util as u; real = u.find_spec\n"
            "u.find_spec = lambda name: None if name.startswith('torch') else real(name)"
        )
    )
    assert found["native engine"]["status"] == "note"
    assert "apt install gcc" in found["native engine"]["remedy"]
    assert found["torch"]["status"] == "ok"
    assert "ncnn" in found["weights and engine"]["finding"]


def test_a_crash_during_a_check_is_a_finding(monkeypatch, settings):
    monkeypatch.setattr(check, "ROOT", "tests.app.cli.crashing_")
    *_, last = check.check_network(settings)
    assert last[0] == "wrong"
    assert "SIGSEGV" in last[2]


@pytest.mark.parametrize(
    ("driver", "status", "words"),
    [
        ("", "ok", "no NVIDIA driver"),
        ("it does not start (cuInit: 999)", "note", "cuInit: 999"),
        (Driver((13, 0), 0), "note", "sees no GPU"),
        (Driver((12, 4), 2), "ok", "2 GPUs, driver for CUDA 12.4"),
    ],
)
def test_the_gpu_is_described(driver, status, words):
    found = check_gpu(driver)
    assert found.status == status
    assert words in found.finding


def test_a_gpu_that_torch_cannot_use_is_wrong():
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch can use this machine's GPU")
    first, *_ = check_torch(Driver((11, 0), 1))
    assert first.what == "torch"
    assert first.status == ("note" if torch.version.cuda is None else "wrong")
    assert first.remedy


def test_a_gpu_without_torch_is_noted(monkeypatch):
    monkeypatch.setattr(installation, "find_spec", lambda _: None)
    (found,) = check_torch(Driver((13, 0), 1))
    assert found.status == "note"
    assert "pip install" in found.remedy
