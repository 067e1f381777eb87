"""Colours for text on terminals. Knows nothing of the text."""

import os
from typing import IO

RED, GREEN, YELLOW, BOLD = 31, 32, 33, 1


def is_coloured(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal that shows colours, and its user has not disabled them.

    https://no-color.org describes the variable NO_COLOR.
    """
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return is_wanted and stream.isatty()


def paint(text: str, code: int, stream: IO[str]) -> str:
    """Return the text in a colour, or unchanged if the stream has no colours."""
    return f"\x1b[{code}m{text}\x1b[0m" if is_coloured(stream) else text
