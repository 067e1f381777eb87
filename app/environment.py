"""The file `.env`: settings in a file, one `NAME=VALUE` per line.

Variables that are already set override the file. Knows nothing of what the settings mean.
"""

import os
from pathlib import Path

from dotenv import dotenv_values

PREFIXES = ("SEG_", "FCN_")
"""The prefixes of the server's and the client's variables; others in the file are ignored."""

DEFAULT_FILE = Path(".env")


def load_env_file(path: Path | None = None) -> None:
    """Add our variables in a file to the environment; without a path, those in `.env`, if any.

    Raises OSError for a path that cannot be read.
    """
    if path is None:
        if not DEFAULT_FILE.is_file():
            return
        path = DEFAULT_FILE
    with path.open(encoding="utf-8") as file:
        values = dotenv_values(stream=file)
    for name, value in values.items():
        if name.startswith(PREFIXES) and value is not None:
            os.environ.setdefault(name, value)
