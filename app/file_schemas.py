"""The schemas of the results of several files, as the OpenAPI document under /docs shows them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.json_schema import SkipJsonSchema

from app.schemas import Polygons, ProblemDetails, RunLengths, Segmentation


class FileAnswer(BaseModel):
    """The answer to one of several files."""

    name: str = Field(description="The file's name in the request")
    status: Literal[200]
    media_type: str = Field(description="Media type of the answer")
    height: int
    width: int
    timings_ms: dict[str, float] = Field(description="Milliseconds of each stage")
    answer: Segmentation | RunLengths | Polygons | str = Field(
        description="An object for format=json, rle and polygons; otherwise bytes in base64"
    )


class FileProblem(BaseModel):
    """The reason why one of several files has no answer."""

    name: str = Field(description="The file's name in the request")
    status: int
    problem: ProblemDetails
    retry_after_s: int | SkipJsonSchema[None] = Field(
        None, description="Seconds after which the same file may have an answer"
    )


class FileResults(RootModel[list[FileAnswer | FileProblem]]):
    """The results of several files, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                [
                    {
                        "name": "cat.jpg",
                        "status": 200,
                        "media_type": "image/png",
                        "height": 2,
                        "width": 3,
                        "timings_ms": {"decode": 2.1, "inference": 41.3},
                        "answer": "iVBORw0KGgo=",
                    },
                    {
                        "name": "notes.txt",
                        "status": 415,
                        "problem": {
                            "type": "urn:segmentation:problem:unsupported-type",
                            "title": "Not an image of a supported format",
                            "status": 415,
                            "detail": "The 5 bytes are not an image of a supported format.",
                            "remedy": "Send JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame).",
                        },
                    },
                ]
            ]
        }
    )
