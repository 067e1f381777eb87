"""The results of a bulk run's parts as a PNG for each photo, and the record that a part is done.

A part is recorded in one write, when all its photos have ended. A recorded part is never computed
again. Knows nothing of servers.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol, Self

from app.cli.plan import FOLDER
from app.cli.source import name_results
from app.cli.storage import Storage
from app.client import PhotoError
from app.client.segmentation import Segmentation


class Part(Protocol):
    """The results of one part, written inside a `with`. Raises what the filesystem raises."""

    @property
    def path(self) -> str:
        """The file in the output that exists once the part is recorded."""

    def holds(self, photo: str) -> bool:
        """Return whether a photo already has its result in a part that is not recorded."""

    def add(self, photo: str, result: Segmentation) -> None:
        """Add a photo's result. May be called from several threads."""

    def record(self, failures: Mapping[str, str]) -> None:
        """Record the part, with the reason of each photo that has no result."""

    def list_failures(self) -> list[tuple[str, str]]:
        """Return the photos of a recorded part that have no result, and the reasons."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class MaskFiles:
    """A part whose photos become PNG files, each written as soon as it is computed."""

    def __init__(self, output: Storage, number: int) -> None:
        self._output = output
        self.path = f"{FOLDER}/parts/{number:06}.json"

    def holds(self, photo: str) -> bool:
        with suppress(PhotoError):
            return self._output.exists(name_results(photo) + ".png")
        return False

    def add(self, photo: str, result: Segmentation) -> None:
        self._output.write(name_results(photo) + ".png", result.png)

    def record(self, failures: Mapping[str, str]) -> None:
        self._output.write(self.path, json.dumps(failures, indent=0).encode())

    def list_failures(self) -> list[tuple[str, str]]:
        return list(json.loads(self._output.read(self.path)).items())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
