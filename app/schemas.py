"""The JSON answers' fields, as the OpenAPI document under /docs shows them."""

from typing import Any

from pydantic import BaseModel, Field


class PresentClass(BaseModel):
    """One class of a mask."""

    index: int = Field(description="Class index, the pixel's value in the mask")
    name: str
    pixels: int = Field(description="Number of pixels of this class")


class Segmentation(BaseModel):
    """A mask as JSON."""

    height: int
    width: int
    classes: list[PresentClass] = Field(description="The classes that occur, by index")
    mask: list[list[int]] = Field(description="Class index of each pixel, row by row")
    weights: str = Field(description="Digest of the weights that made it")


class ClassInfo(BaseModel):
    """One class of the network."""

    index: int
    name: str
    colour: tuple[int, int, int] = Field(description="RGB, as in the PNG's palette")


class Limits(BaseModel):
    """The limits of a request."""

    max_body_bytes: int
    max_pixels: int
    max_side: int = Field(description="Longer images are scaled down to it; 0: never")
    max_queue: int


class ModelInfo(BaseModel):
    """The weights that are in use, and the engine and device that they run on."""

    architecture: str
    digest: str = Field(description="SHA-256 of the weights and their metadata")
    engine: str
    device: str
    classes: list[ClassInfo]
    mean: tuple[float, float, float] = Field(description="Of RGB / 255, for normalisation")
    std: tuple[float, float, float]
    scores: dict[str, Any] = Field(description="Measured at the end of training")
    recipe: dict[str, Any]
    data: dict[str, Any]
    limits: Limits


class Reloaded(BaseModel):
    """The weights that are in use after a reload."""

    digest: str = Field(description="SHA-256 of the weights and their metadata")
    engine: str


class Health(BaseModel):
    """The answer to a probe; its status code has the same meaning."""

    status: str


class ProblemDetails(BaseModel):
    """A problem detail (RFC 9457) with one more member, `remedy`: what the caller can do."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
