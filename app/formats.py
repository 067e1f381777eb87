"""The formats that the service reads and writes. Knows nothing of how they are encoded."""

from dataclasses import dataclass
from enum import StrEnum

SUPPORTED = "JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame)"
"""The formats of uploads, as error messages list them."""


class AnswerFormat(StrEnum):
    """The answer formats; if a client prefers several equally, the first one is chosen."""

    PNG = "png"
    JSON = "json"
    NPY = "npy"
    RAW = "raw"
    OVERLAY = "overlay"
    RLE = "rle"
    POLYGONS = "polygons"
    CONFIDENCE = "confidence"

    @property
    def media_types(self) -> tuple[str, ...]:
        """The Content-Type of an answer in this format; if there are two, the client chooses."""
        return MEDIA_TYPES[self]


PNG, JPEG, JSON = "image/png", "image/jpeg", "application/json"

MEDIA_TYPES: dict[AnswerFormat, tuple[str, ...]] = {
    AnswerFormat.PNG: (PNG,),
    AnswerFormat.JSON: (JSON,),
    AnswerFormat.NPY: ("application/x-npy",),
    AnswerFormat.RAW: ("application/octet-stream",),
    AnswerFormat.OVERLAY: (PNG, JPEG),
    AnswerFormat.RLE: (JSON,),
    AnswerFormat.POLYGONS: (JSON,),
    AnswerFormat.CONFIDENCE: (PNG,),
}

MASK_FORMATS = (AnswerFormat.PNG, AnswerFormat.JSON, AnswerFormat.NPY, AnswerFormat.RAW)
"""The formats with a media type of their own, among which the Accept header alone can choose."""

MIN_SIDE, MAX_SIDE = 32, 65536
"""The bounds of the parameter `max_side`."""

ALPHA = 0.5
"""The default opacity of the classes' colours in an overlay."""


class Container(StrEnum):
    """The formats that hold the answers to several files; the first one is the default."""

    JSON = "json"
    ZIP = "zip"

    @property
    def media_type(self) -> str:
        """The Content-Type of the whole answer."""
        return f"application/{self}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions:
    """The answer that a client asks for."""

    format: AnswerFormat = AnswerFormat.PNG
    media_type: str = PNG
    accepts_gzip: bool = False
    alpha: float = ALPHA
    """The opacity of the classes' colours in an overlay: 0 shows the photo only, 1 only colours."""
    kept: tuple[int, ...] | None = None
    """The class indices to keep; pixels of others become index 0. None keeps all."""
