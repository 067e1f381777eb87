"""POST /v1/segment: segments one image."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.errors import Forbidden, InvalidTensor, PreflightRefused, ReloadFailed
from app.formats import ALPHA, SUPPORTED
from app.http.description import ANSWER_HEADERS, BINARY, describe_problems
from app.http.problems import PROBLEMS
from app.http.uploads import FIELD, JSON_TYPE, read_content_type, read_upload
from app.routes.parameters import (
    AlphaParameter,
    ClassesParameter,
    FormatParameter,
    MaxSideParameter,
    TimeoutHeader,
    choose_answer,
    choose_scaling,
)
from app.routes.sending import respond
from app.schemas import JsonAnswer, Polygons, RunLengths, Segmentation, find_example
from app.tasks.segmentation import SegmentationTask, carry_out, open_context

router = APIRouter(prefix="/v1", tags=["segmentation"])

IMAGE = {
    **BINARY,
    "description": f"{SUPPORTED}. As the body, it may also have a media type image/...",
}
ONE_PIXEL = "Qk06AAAAAAAAADYAAAAoAAAAAQAAAAEAAAABABgAAAAAAAQAAADEDgAAxA4AAAAAAAAAAAAAHmTIAA=="
"""A BMP of one pixel, in base64."""

REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: IMAGE}}
        },
        "application/octet-stream": {"schema": IMAGE},
        JSON_TYPE: {
            "schema": {
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {
                    "image": {
                        "type": "string",
                        "contentEncoding": "base64",
                        "description": "The image file in base64; never a URL",
                    }
                },
            },
            "example": {"image": ONE_PIXEL},
        },
    },
}

OTHER_ROUTES_ERRORS = (Forbidden, InvalidTensor, PreflightRefused, ReloadFailed)
ERRORS = describe_problems(error for error in PROBLEMS if error not in OTHER_ROUTES_ERRORS)
"""The problems of requests that segment images: all but those that only other routes have."""

MASK: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JsonAnswer,
        "description": "The mask, at the upload's size",
        # Client generators take the first type that they know. As bytes, it is right for every
        # type that the body may have.
        "content": {
            "image/png": {"schema": BINARY},
            "image/jpeg": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            JSON_TYPE: {
                "examples": {
                    answer: {"value": find_example(schema)}
                    for answer, schema in (
                        ("json", Segmentation),
                        ("rle", RunLengths),
                        ("polygons", Polygons),
                    )
                }
            },
            "application/x-npy": {"schema": BINARY},
        },
        "headers": ANSWER_HEADERS,
    },
}


@router.post(
    "/segment",
    summary="Segment an image",
    response_class=Response,
    responses=MASK | ERRORS,
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def segment(
    request: Request,
    format: FormatParameter = None,  # the query parameter's name
    max_side: MaxSideParameter = None,
    classes: ClassesParameter = None,
    alpha: AlphaParameter = ALPHA,
    timeout: TimeoutHeader = None,
) -> Response:
    """Segment one image: as the multipart field `file`, as the body, or in base64 in JSON."""
    context = open_context(request)
    known = context.predictor.metadata.classes
    options = choose_answer(request, format, classes=classes, alpha=alpha, known=known)
    task = SegmentationTask(
        context=context,
        options=options,
        is_base64=read_content_type(request) == JSON_TYPE,
        scaling=choose_scaling(max_side, context.predictor.scaling),
        due=context.find_due(timeout),
    )
    answer = await carry_out(request, task, task.run, read=read_upload)
    return respond(
        task,
        answer,
        media_type=options.media_type,
        headers={
            "X-Mask-Shape": "{},{}".format(*answer.mask_size),
            "Vary": "Accept, Accept-Encoding",
        },
    )
