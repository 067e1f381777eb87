"""The file `.env`: settings in a file, one `NAME=VALUE` per line.

Variables that are already set override the file. Knows nothing of what the settings mean.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

PREFIXES = ("SEG_", "FCN_")
"""The prefixes of the server's and the client's variables; others in the file are ignored."""

DEFAULT_FILE = Path(".env")


class EnvFileError(Exception):
    """The file cannot be read."""


def load_env_file(path: Path | None = None) -> None:
    """Add our variables in a file to the environment; without a path, those in `.env`, if any.

    Raises EnvFileError for a file that cannot be read, or is no UTF-8.
    """
    if path is None:
        if not DEFAULT_FILE.is_file():
            return
        path = DEFAULT_FILE
    try:
        with path.open(encoding="utf-8") as file:
            values = dotenv_values(stream=file)
    except (OSError, UnicodeDecodeError) as error:
        raise EnvFileError(f"{path}: {error}") from error
    for name, value in values.items():
        if name.startswith(PREFIXES) and value is not None:
            os.environ.setdefault(name, value)
