"""Pillow's settings, and the translation of its errors."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from app.codecs.stripping import CHECK_FILE
from app.errors import BrokenImage

DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError,
    OverflowError, ZeroDivisionError, struct.error,
)  # fmt: skip
"""The errors that Pillow raises for a damaged file, because its plugins parse in plain Python."""


def prepare_pillow() -> None:
    """Disable Pillow's own pixel limit, 179 million, and its warnings; call this once at the start.

    Python remembers the text of every warning. Pillow's texts contain numbers from damaged files,
    so the memory for them would grow.
    """
    Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def translate_pillow_errors() -> Iterator[None]:
    """Raise BrokenImage for Pillow's errors. Use this only around calls of Pillow."""
    try:
        yield
    except DAMAGED as error:
        raise BrokenImage("The image is damaged or incomplete.", remedy=CHECK_FILE) from error
