"""The answers that requests wait for. Knows nothing of who computes them."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from app.errors import InferenceFailed
from model.engines.base import Array


class Waiting(Protocol):
    """A request for a mask."""

    answer: asyncio.Future[Array]


def fail(unanswered: Iterable[Waiting]) -> None:
    """Answer those that have no answer with InferenceFailed."""
    for waiting in unanswered:
        if not waiting.answer.done():
            waiting.answer.set_exception(
                InferenceFailed(
                    "The engine failed on this image.",
                    remedy="Try again. If the error persists, report the X-Request-ID of this "
                    "answer.",
                )
            )
