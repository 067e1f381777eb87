"""The options of `fcn serve` and `fcn check`: one for each setting, which overrides its variable.

Knows the names and descriptions of the settings; `app.settings` validates the values.
"""

import argparse
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from app import __version__
from app.settings import PREFIX, Settings

DESCRIPTION = "Serve the segmentation of images over HTTP, until SIGTERM or Ctrl-C."
EXIT_STATUS = (
    "0 after a drain, 1 if the server cannot start, 2 for a wrong option or value, 70 if the "
    "engine is stuck."
)


def parse_arguments(
    arguments: Sequence[str],
    *,
    prog: str = "python -m app",
    description: str = DESCRIPTION,
    exit_status: str = EXIT_STATUS,
) -> tuple[Mapping[str, str], Path | None]:
    """Return the options as environment variables, which worker processes inherit.

    Also returns the file of variables, if one is named. Exits for --help, --version and invalid
    options.
    """
    given = vars(_build_parser(prog, description, exit_status).parse_args(arguments))
    env_file: Path | None = given.pop("env_file")
    return {name: value for name, value in given.items() if value is not None}, env_file


def _build_parser(prog: str, description: str, exit_status: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [--OPTION VALUE ...]",
        description=description,
        epilog=f"Each option overrides an environment variable: --max-side overrides {PREFIX}"
        "MAX_SIDE, and so on. A variable overrides the same variable in the file .env. "
        f"Exit status: {exit_status}",
        allow_abbrev=False,
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="File of variables, one NAME=VALUE per line, instead of .env in the current folder.",
    )
    for name, field in Settings.model_fields.items():
        assert field.description
        parser.add_argument(
            name_option(name),
            dest=PREFIX + name.upper(),
            metavar="VALUE",
            help=f"{field.description}{_format_default(field.default)}".replace("%", "%%"),
        )
    return parser


def name_option(setting: str) -> str:
    """Return the option for a setting."""
    return f"--{setting.replace('_', '-')}"


def format_setting(setting: str, value: object, *, options: Collection[str]) -> str:
    """Return a setting with a value, as it is given.

    It is NAME=VALUE, or --NAME VALUE if its variable is one of `options`.
    """
    variable = PREFIX + setting.upper()
    return f"{name_option(setting)} {value}" if variable in options else f"{variable}={value}"


def _format_default(value: object) -> str:
    return "" if value in (None, "") or not isinstance(value, (int, float, str)) else f" ({value})"


class _Formatter(argparse.HelpFormatter):
    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
