"""The schemas of JSON answers, as the OpenAPI document under /docs shows them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, RootModel

EXAMPLE_DIGEST = "5f2b0c1e9a7d4c36b8e1f0a2d3c4b5a697887766554433221100ffeeddccbbaa"


def show_example(**example: JsonValue) -> ConfigDict:
    """Return the configuration that puts this example into a model's schema."""
    return ConfigDict(json_schema_extra={"examples": [example]})


def find_example(schema: type[BaseModel]) -> JsonValue:
    """Return the example of a model."""
    examples: list[JsonValue] = schema.model_json_schema()["examples"]
    return examples[0]


class PresentClass(BaseModel):
    """One class of a mask."""

    index: int = Field(description="Class index, the pixel's value in the mask")
    name: str
    pixels: int = Field(description="Number of pixels of this class")


class Segmentation(BaseModel):
    """A mask as JSON."""

    model_config = show_example(
        height=2,
        width=3,
        classes=[
            {"index": 0, "name": "background", "pixels": 2},
            {"index": 8, "name": "cat", "pixels": 4},
        ],
        mask=[[0, 8, 8], [0, 8, 8]],
        weights=EXAMPLE_DIGEST,
    )

    height: int
    width: int
    classes: list[PresentClass] = Field(description="The classes that occur, by index")
    mask: list[list[int]] = Field(description="Class index of each pixel, row by row")
    weights: str = Field(description="Digest of the weights that made it")


class RunLength(BaseModel):
    """COCO's run-length encoding, as pycocotools' `mask.decode` takes it."""

    size: tuple[int, int] = Field(description="Height and width")
    counts: str


class Segment(BaseModel):
    """The pixels of one class."""

    index: int
    name: str
    pixels: int
    bbox: tuple[int, int, int, int] = Field(description="Left, top, width and height, in pixels")
    segmentation: RunLength


class RunLengths(BaseModel):
    """A mask as the runs of each class, without index 0."""

    model_config = show_example(
        height=2,
        width=3,
        segments=[
            {
                "index": 8,
                "name": "cat",
                "pixels": 4,
                "bbox": [1, 0, 2, 2],
                "segmentation": {"size": [2, 3], "counts": "24"},
            }
        ],
        weights=EXAMPLE_DIGEST,
    )

    height: int
    width: int
    segments: list[Segment]
    weights: str = Field(description="Digest of the weights that made it")


class MultiPolygon(BaseModel):
    """Polygons, as in GeoJSON: each is its outer ring and the rings of its holes."""

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[tuple[int, int]]]] = Field(
        description="x to the right and y down, in pixels from the upper left corner; the last "
        "corner of a ring is its first"
    )


class FeatureProperties(BaseModel):
    """The class of a feature."""

    index: int
    name: str
    pixels: int = Field(description="The area of the polygons without their holes")


class Feature(BaseModel):
    """The outlines of one class, along the edges of its pixels."""

    type: Literal["Feature"]
    properties: FeatureProperties
    geometry: MultiPolygon


class Polygons(BaseModel):
    """A mask as polygons, like GeoJSON, without index 0."""

    model_config = show_example(
        type="FeatureCollection",
        height=2,
        width=3,
        features=[
            {
                "type": "Feature",
                "properties": {"index": 8, "name": "cat", "pixels": 4},
                "geometry": {
                    "type": "MultiPolygon",
                    "coordinates": [[[[1, 0], [3, 0], [3, 2], [1, 2], [1, 0]]]],
                },
            }
        ],
        weights=EXAMPLE_DIGEST,
    )

    type: Literal["FeatureCollection"]
    height: int
    width: int
    features: list[Feature]
    weights: str = Field(description="Digest of the weights that made it")


class JsonAnswer(RootModel[Segmentation | RunLengths | Polygons]):
    """A mask as JSON, in format=json, rle or polygons."""


class ClassInfo(BaseModel):
    """One class of the network."""

    index: int
    name: str
    colour: tuple[int, int, int] = Field(description="RGB, as in the PNG's palette")


class Limits(BaseModel):
    """The limits of a request."""

    max_body_bytes: int
    max_pixels: int
    max_side: int = Field(description="Larger images are scaled down to this side; 0 means never")
    unscaled_side: int = Field(description="Images up to this side are not scaled")
    max_queue: int
    max_files: int = Field(description="Largest number of files in one request")


class ModelInfo(BaseModel):
    """The weights that are in use, and the engine and device that they run on."""

    model_config = show_example(
        architecture="fcn-resnet18",
        digest=EXAMPLE_DIGEST,
        engine="native avx512 on cpu, 2 threads",
        device="cpu",
        classes=[
            {"index": 0, "name": "background", "colour": [0, 0, 0]},
            {"index": 1, "name": "aeroplane", "colour": [128, 0, 0]},
        ],
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        scores={"mean_iou": 0.586},
        recipe={"preset": "default"},
        data={"train": "VOC2012 and SBD"},
        limits={
            "max_body_bytes": 33554432,
            "max_pixels": 25000000,
            "max_side": 384,
            "unscaled_side": 480,
            "max_queue": 64,
            "max_files": 16,
        },
    )

    architecture: str
    digest: str = Field(description="SHA-256 of the weights and their metadata")
    engine: str
    device: str
    classes: list[ClassInfo]
    mean: tuple[float, float, float] = Field(description="Mean of RGB / 255, for normalisation")
    std: tuple[float, float, float]
    scores: dict[str, Any] = Field(description="Measured at the end of training")
    recipe: dict[str, Any]
    data: dict[str, Any]
    limits: Limits


class Reloaded(BaseModel):
    """The weights that are in use after a reload."""

    model_config = show_example(digest=EXAMPLE_DIGEST, engine="native avx512 on cpu, 2 threads")

    digest: str = Field(description="SHA-256 of the weights and their metadata")
    engine: str


class Health(BaseModel):
    """The state that a probe reports, as its status code does."""

    model_config = show_example(status="ready")

    status: str


class ProblemDetails(BaseModel):
    """A problem detail (RFC 9457) with one more member, `remedy`: what the client can do."""

    type: str
    title: str
    status: int
    detail: str
    remedy: str
