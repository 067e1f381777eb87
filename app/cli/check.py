"""`fcn check`: checks this installation, and reports what is wrong and how to fix it.

Checks Python, the settings, ports, keys and the page itself. `model.installation` checks the
engine, the GPU and the weights in a separate process, because these checks may crash it.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from pydantic import ValidationError

from app import __version__
from app.access.keys import Keyring, KeysError
from app.arguments import parse_arguments
from app.cli import ROOT
from app.environment import EnvFileError, load_env_file
from app.observability.console import GREEN, RED, YELLOW, paint
from app.process.sockets import ListenError, bind
from app.process.startup import EXIT_USAGE, list_invalid
from app.settings import PREFIX, Settings, find_unknown_variables

TIMEOUT_S = 300
"""The limit of the engine's check, which may compile the engine and imports torch."""

MARKS = {"ok": ("ok", GREEN), "note": ("note", YELLOW), "wrong": ("WRONG", RED)}

PAGE = Path(__file__).parents[1] / "web" / "index.html"

Finding = tuple[str, str, str, str]
"""The status, the part that was checked, the finding, and the remedy; see `model.installation`."""


def main() -> None:
    """Print one line for each finding. Exits with 0 if nothing is wrong, otherwise with 1."""
    options, env_file = parse_arguments(
        sys.argv[1:],
        prog="fcn check",
        description="Check this installation with the settings that fcn serve would have, and "
        "report what is wrong and how to fix it.",
        exit_status="0 if nothing is wrong, 1 if something is, 2 for a wrong option.",
    )
    os.environ.update(options)
    try:
        load_env_file(env_file)
    except EnvFileError as error:
        sys.stderr.write(f"fcn check: error: {error}\n")
        sys.exit(EXIT_USAGE)
    is_wrong = False
    for finding in check_all(options=options):
        _show(finding)
        is_wrong = is_wrong or finding[0] == "wrong"
    sys.exit(is_wrong)


def _show(finding: Finding) -> None:
    status, what, found, remedy = finding
    mark, colour = MARKS[status]
    print(f"{paint(f'{mark:<6}', colour, sys.stdout)}{what}: {found}", flush=True)
    if remedy:
        print(f"      {remedy}", flush=True)


def check_all(*, options: Collection[str] = ()) -> Iterator[Finding]:
    """Check everything; with invalid settings, only what does not depend on them.

    `options` are the names of the variables that were given as options.
    """
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "ok", "version", f"{__version__}, Python {python}", ""
    yield _check_page()
    try:
        settings = Settings()
    except ValidationError as error:
        for given, message in list_invalid(error, options=options):
            yield "wrong", "settings", given, message
        return
    yield from check_settings(settings)
    yield from check_network(settings)


def _check_page() -> Finding:
    if PAGE.is_file():
        return "ok", "page", "the page at / is here", ""
    return "note", "page", f"{PAGE} is missing", "the API works without it; install again"


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Check what the settings refer to: variables, ports and keys."""
    for name in find_unknown_variables(os.environ):
        yield (
            "note", "settings", f"{name} is not a setting, and is ignored",
            "fcn serve --help lists all settings",
        )  # fmt: skip
    try:
        bound = bind(settings)
    except ListenError as error:
        yield "wrong", "port", f"{error.filename}: {error.strerror}", error.suggest()
    else:
        for one in bound:
            one.close()
        yield "ok", "port", f"{settings.port} on {settings.host} is free", ""
    if settings.keys_file is not None:
        try:
            Keyring(settings.keys_file)
        except (OSError, KeysError) as error:
            yield "wrong", "keys", str(error), "make one with: fcn keys NAME >> FILE"
        else:
            yield "ok", "keys", str(settings.keys_file), ""
    elif settings.host not in ("127.0.0.1", "::1", "localhost"):
        yield (
            "note", "keys", f"every client that reaches {settings.host} needs no key",
            f"set {PREFIX}KEYS_FILE if this is not intended",
        )  # fmt: skip


def check_network(settings: Settings) -> Iterator[Finding]:
    """Check the engine, the GPU and the weights; a crash of that process is a finding, too."""
    command = [sys.executable, "-m", f"{ROOT}model.installation"]
    for name in ("weights", "engine", "device", "precision"):
        command += [f"--{name}", str(getattr(settings, name))]
    try:
        ended = subprocess.run(  # noqa: S603, nothing in it comes from a client
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        yield "wrong", "engine", f"no answer within {TIMEOUT_S} s", "is the GPU stuck? nvidia-smi"
        return
    for line in ended.stdout.splitlines():
        found = json.loads(line)
        yield found["status"], found["what"], found["finding"], found["remedy"]
    if ended.returncode:
        yield "wrong", "engine", _describe_end(ended), "report this, with the lines above"


def _describe_end(ended: "subprocess.CompletedProcess[str]") -> str:
    if ended.returncode < 0:
        return f"the check was ended by {signal.Signals(-ended.returncode).name}"
    lines = ended.stderr.strip().splitlines()
    return lines[-1] if lines else f"the check ended with status {ended.returncode}"
