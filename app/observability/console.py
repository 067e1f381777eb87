"""Text for people: colours on terminals that want them. Knows nothing of what it says."""

import os
from typing import IO

RED, GREEN, YELLOW, BOLD = 31, 32, 33, 1


def is_coloured(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal whose user has nothing against colours.

    NO_COLOR is what https://no-color.org asks programs to respect.
    """
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return is_wanted and stream.isatty()


def paint(text: str, code: int, stream: IO[str]) -> str:
    """Return the text in a colour, or as it is where the stream takes none."""
    return f"\x1b[{code}m{text}\x1b[0m" if is_coloured(stream) else text
