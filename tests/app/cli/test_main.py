"""`fcn` finds its commands quickly, and their help has their name."""

import os
import pty
import shutil
import subprocess
import sys

import pytest

from app import __version__
from app.cli.__main__ import COMMANDS
from app.environment import EnvFileError, load_env_file
from app.observability.console import RED, is_coloured, paint
from tests.app.cli.conftest import run_fcn
from tests.conftest import REPOSITORY


def test_help_lists_every_command_and_imports_none():
    code = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from app.cli.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'httpx', 'pydantic', 'fastapi', 'PIL'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert all(f"\n  {name} " in told for name in COMMANDS)
    assert run_fcn().stdout.startswith("usage: fcn COMMAND")


def test_version_and_mistakes(fcn):
    assert fcn("--version").stdout == f"{__version__}\n"
    wrong = fcn("segmnt", "photo.jpg")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("fcn: error: no command 'segmnt': choose from")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_under_its_name(name, fcn):
    helped = fcn(name, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"usage: fcn {name} ")


def test_a_command_whose_packages_are_missing_says_how_to_install_them():
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['train']\n"
        "from app.cli.__main__ import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: fcn train needs torch, which is not installed here: "
        "pip install 'fcn-segmentation-service[train]'\n"
    )


def test_an_env_file_sets_what_is_not_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_env_file()  # there is none
    lines = ["SEG_PORT=9000", "SEG_HOST='0.0.0.0' # all", "FCN_URL=http://a", "PATH=x", "SEG_X"]
    (tmp_path / ".env").write_text("\n".join(lines) + "\n")
    (tmp_path / "other").write_text("SEG_WORKERS=3\n")
    for name in ("SEG_HOST", "FCN_URL", "SEG_X", "SEG_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEG_PORT", "1")
    path = os.environ["PATH"]
    try:
        load_env_file()
        load_env_file(tmp_path / "other")
        assert os.environ["SEG_PORT"] == "1"
        assert os.environ["SEG_HOST"] == "0.0.0.0"
        assert os.environ["FCN_URL"] == "http://a"
        assert os.environ["SEG_WORKERS"] == "3"
        assert os.environ["PATH"] == path
        assert "SEG_X" not in os.environ
        with pytest.raises(EnvFileError, match="none"):
            load_env_file(tmp_path / "none")
    finally:
        for name in ("SEG_HOST", "FCN_URL", "SEG_WORKERS"):
            os.environ.pop(name, None)


@pytest.mark.parametrize("command", ["serve", "check", "segment", "bulk"])
def test_an_env_file_that_is_no_text_is_an_error_in_one_line(tmp_path, fcn, command):
    (tmp_path / ".env").write_bytes(b"SEG_PORT=\xff\n")
    ended = fcn(command, *(("in", "out") if command == "bulk" else ()))
    assert ended.returncode in (1, 2)
    assert "error: .env: 'utf-8' codec can't decode byte 0xff" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_server_reads_the_env_file(tmp_path, fcn):
    (tmp_path / ".env").write_text("SEG_PORT=many\n")
    assert fcn("serve").stderr.startswith("error: SEG_PORT=many: ")
    (tmp_path / "other.env").write_text("SEG_WORKERS=none\n")
    assert fcn("serve", "--env-file", "other.env").stderr.startswith("error: SEG_WORKERS=none: ")
    missing = fcn("serve", "--env-file", "missing.env")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: missing.env: ")


def test_colours_are_for_terminals_whose_users_want_them(monkeypatch, tmp_path):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, (tmp_path / "file").open("w") as file:
        assert is_coloured(terminal)
        assert paint("text", RED, terminal) == "\x1b[31mtext\x1b[0m"
        assert not is_coloured(file)
        assert paint("text", RED, file) == "text"
        monkeypatch.setenv("NO_COLOR", "1")
        assert not is_coloured(terminal)
        monkeypatch.setenv("NO_COLOR", "")
        monkeypatch.setenv("TERM", "dumb")
        assert not is_coloured(terminal)
    os.close(ours)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_options(tmp_path, fcn):
    script = tmp_path / "fcn.bash"
    script.write_text(fcn("completion", "bash").stdout)
    program = tmp_path / "fcn"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m app.cli "$@"\n')
    program.chmod(0o755)

    def complete(*words):
        line = " ".join(f"'{word}'" for word in words)
        asked = (
            f". {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _fcn; IFS=,; "
            'echo "${COMPREPLY[*]}"'
        )
        return subprocess.run(
            ["bash", "-c", asked], cwd=REPOSITORY, capture_output=True, text=True, check=True,
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        ).stdout.strip()  # fmt: skip

    assert complete("fcn", "se") == "segment,serve"
    assert complete("fcn", "segment", "--over") == "--overlay,--overwrite"
    assert complete("fcn", "segment", "ph") == ""


def test_zsh_gets_bashs_completion(fcn):
    script = fcn("completion", "zsh").stdout
    assert script.startswith("autoload -U +X bashcompinit && bashcompinit\n")
    assert script.endswith(fcn("completion", "bash").stdout)
