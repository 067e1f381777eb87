"""The formats that the service reads and writes. Knows nothing of how they are made or read."""

from enum import StrEnum

SUPPORTED = "JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame)"
"""The formats of uploads, as error messages list them."""


class AnswerFormat(StrEnum):
    """The answer formats; if a caller prefers several equally, the first one is chosen."""

    PNG = "png"
    JSON = "json"
    NPY = "npy"
    RAW = "raw"

    @property
    def media_type(self) -> str:
        """The Content-Type of an answer in this format."""
        return MEDIA_TYPES[self]


MEDIA_TYPES = {
    AnswerFormat.PNG: "image/png",
    AnswerFormat.JSON: "application/json",
    AnswerFormat.NPY: "application/x-npy",
    AnswerFormat.RAW: "application/octet-stream",
}
