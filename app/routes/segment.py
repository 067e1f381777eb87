"""POST /v1/segment: an upload in, its mask out."""

import math
from typing import Any

from fastapi import APIRouter, Request, Response

from app.codecs.answers import Answer
from app.errors import Forbidden, InvalidTensor, PreflightRefused, ReloadFailed
from app.formats import ALPHA, SUPPORTED
from app.http.description import ANSWER_HEADERS, BINARY, describe_problems
from app.http.problems import PROBLEMS
from app.http.uploads import (
    FIELD,
    JSON_TYPE,
    read_content_type,
    read_upload,
)
from app.observability.stages import Stages
from app.routes.parameters import (
    AlphaParameter,
    ClassesParameter,
    FormatParameter,
    MaxSideParameter,
    TimeoutHeader,
    choose_answer,
    choose_max_side,
)
from app.routes.segmentation import SegmentationTask, carry_out
from app.routes.sending import AnswerResponse
from app.schemas import JsonAnswer, Polygons, RunLengths, Segmentation, find_example
from app.service import Service

router = APIRouter(prefix="/v1", tags=["segmentation"])

IMAGE = {
    **BINARY,
    "description": f"{SUPPORTED}. If it is the body, its media type may be image/..., too",
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

OTHERS = (Forbidden, InvalidTensor, PreflightRefused, ReloadFailed)
"""These errors are raised by other routes only."""

MASK: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JsonAnswer,
        "description": "The mask, at the upload's size",
        # Generators take the first type that they know: the caller then gets the bytes, which is
        # right for each type that the body may have.
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
    response_class=Response,
    responses=MASK | describe_problems(error for error in PROBLEMS if error not in OTHERS),
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
    service: Service = request.app.state.service
    stages: Stages = request.scope["stages"]
    known = service.predictor.metadata.classes
    task = SegmentationTask(
        service=service,
        batcher=service.batcher,
        predictor=service.predictor,
        stages=stages,
        upload=request.scope["upload_share"],
        sent=request.scope["answer_share"],
        options=choose_answer(request, format, classes=classes, alpha=alpha, known=known),
        is_base64=read_content_type(request) == JSON_TYPE,
        max_side=choose_max_side(max_side, service.predictor.max_side),
        due=stages.started + min(timeout or math.inf, service.settings.deadline_s),
    )
    answer = await carry_out(request, task, task.run, read=read_upload)
    return _respond(answer, task)


def _respond(answer: Answer, task: SegmentationTask) -> Response:
    return AnswerResponse(
        answer,
        media_type=task.options.media_type,
        headers={
            "Server-Timing": task.stages.format_server_timing(),
            "X-Weights-Digest": task.predictor.metadata.digest,
            "X-Mask-Shape": "{},{}".format(*answer.mask_size),
            "Vary": "Accept, Accept-Encoding",
        },
        next_piece=task.next_piece,
    )
