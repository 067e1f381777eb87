"""Checks that a result can be written, before the work that makes it."""

import tempfile
from pathlib import Path

from model.errors import OutputError


def require_writable(*paths: Path | None) -> None:
    """Raises OutputError unless files can be written at these paths; None is left out."""
    for path in paths:
        if path is not None:
            if path.is_dir():
                raise OutputError(f"{path} is a folder: name a file")
            require_folder(path.parent)


def require_folder(folder: Path) -> None:
    """Raises OutputError unless files can be written into the folder, which need not exist yet."""
    try:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(
            f"nothing can be written into {folder}: {error.strerror or error}. Name another place"
        ) from error
