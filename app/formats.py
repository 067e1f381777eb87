"""The formats that the service reads and writes. Knows nothing of how they are made or read."""

from enum import StrEnum

SUPPORTED = "JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame)"
"""The image formats of an upload, in words."""


class AnswerFormat(StrEnum):
    """In the order of preference where a caller likes several equally."""

    PNG = "png"
    JSON = "json"
    NPY = "npy"

    @property
    def media_type(self) -> str:
        return {"png": "image/png", "json": "application/json", "npy": "application/x-npy"}[self]
