"""The formats that the service reads and writes. Knows nothing of how they are made or read."""

from enum import StrEnum

SUPPORTED = "JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame)"
"""The formats of uploads, as error messages list them."""


class AnswerFormat(StrEnum):
    """The answer formats; if a caller prefers several equally, the first one is chosen."""

    PNG = "png"
    JSON = "json"
    NPY = "npy"

    @property
    def media_type(self) -> str:
        """The Content-Type of an answer in this format."""
        return {"png": "image/png", "json": "application/json", "npy": "application/x-npy"}[self]
