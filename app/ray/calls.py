"""The images of an ingress replica that are at engine replicas, so that a call can be cancelled.

Knows nothing of why an image is not needed any more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model.engines.base import Array


class Calls:
    """The calls of the handle by the canvas that they compute. Shared by all weights."""

    def __init__(self) -> None:
        self._responses: dict[int, Any] = {}

    @contextmanager
    def keep(self, pixels: Array, response: Any) -> Iterator[None]:
        """Let this canvas' call be cancelled during the block."""
        self._responses[id(pixels)] = response
        try:
            yield
        finally:
            del self._responses[id(pixels)]

    def cancel(self, pixels: Array) -> None:
        """Cancel the call for this canvas, if it has not ended. Does not block.

        An engine replica in whose queue the image waits drops it.
        """
        response = self._responses.get(id(pixels))
        if response is not None:
            response.cancel()
