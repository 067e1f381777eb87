"""POST /v1/segment: an upload in, its mask out."""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from app.codecs.answers import Answer
from app.errors import Forbidden, PreflightRefused, ReloadFailed
from app.formats import SUPPORTED, AnswerFormat
from app.http.description import ANSWER_HEADERS, BINARY, describe_problems
from app.http.negotiation import accepts_gzip, negotiate
from app.http.problems import PROBLEMS
from app.http.uploads import FIELD, read_upload, run_while_connected
from app.observability.stages import Stages
from app.routes.segmentation import SegmentationTask
from app.routes.sending import AnswerResponse
from app.schemas import Segmentation
from app.service import Service

router = APIRouter(prefix="/v1", tags=["segmentation"])

IMAGE = {
    **BINARY,
    "description": f"{SUPPORTED}. If it is the body, its media type may be image/..., too",
}
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: IMAGE}}
        },
        "application/octet-stream": {"schema": IMAGE},
    },
}

OTHERS = (Forbidden, ReloadFailed, PreflightRefused)
"""These errors are raised by other routes only."""

MASK: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Segmentation,
        "description": "The mask, at the upload's size",
        # Generators take the first type that they know: the caller then gets the bytes, which is
        # right for each type that the body may have.
        "content": {
            "image/png": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
            "application/json": {},
            "application/x-npy": {"schema": BINARY},
        },
        "headers": ANSWER_HEADERS,
    },
}

FormatParameter = Annotated[
    AnswerFormat | SkipJsonSchema[None],
    Query(description="Answer format; overrides the Accept header"),
]
MaxSideParameter = Annotated[
    int | SkipJsonSchema[None],
    Query(
        ge=32,
        le=65536,
        description="Scale a longer image down to this, for this request",
        examples=[512],
    ),
]
TimeoutHeader = Annotated[
    float | SkipJsonSchema[None],
    Header(
        alias="X-Request-Timeout",
        gt=0,
        description="Seconds that the caller waits; a mask that would come later is refused",
        examples=[5.0],
    ),
]


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
    timeout: TimeoutHeader = None,
) -> Response:
    """Segment one image: send it as the multipart field `file` or as the raw body."""
    service: Service = request.app.state.service
    stages: Stages = request.scope["stages"]
    task = SegmentationTask(
        service=service,
        batcher=service.batcher,
        predictor=service.predictor,
        stages=stages,
        upload=request.scope["upload_share"],
        sent=request.scope["answer_share"],
        answer=format or negotiate(", ".join(request.headers.getlist("accept"))),
        accepts_gzip=accepts_gzip(", ".join(request.headers.getlist("accept-encoding"))),
        max_side=choose_max_side(max_side, service.predictor.max_side),
        due=stages.started + min(timeout or math.inf, service.settings.deadline_s),
    )
    service.admission.require_place(task.due)  # before the body is read, and again afterwards
    stages.enter("read")
    data = await read_upload(request, task.due)
    answer = await run_while_connected(request, task.run(data))
    task.upload.end()
    stages.enter("send")
    return _respond(answer, task)


def _respond(answer: Answer, task: SegmentationTask) -> Response:
    return AnswerResponse(
        answer,
        media_type=task.answer.media_type,
        headers={
            "Server-Timing": task.stages.format_server_timing(),
            "X-Weights-Digest": task.predictor.metadata.digest,
            "X-Mask-Shape": "{},{}".format(*answer.mask_size),
            "Vary": "Accept, Accept-Encoding",
        },
        next_piece=task.next_piece,
    )


def choose_max_side(requested: int | None, limit: int) -> int:
    """Return the smaller of the requested side and the operator's; 0 means no limit."""
    if requested is None:
        return limit
    return min(requested, limit) if limit else requested
