"""POST /v1/segment/batch: segments several files; each has its own answer or its own problem."""

from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from app.file_schemas import FileResults
from app.formats import ALPHA, SUPPORTED, AnswerFormat, Container
from app.http.description import ANSWER_HEADERS, BINARY
from app.http.negotiation import join_header, negotiate_container
from app.http.uploads import FILES_FIELD, read_uploads
from app.routes.parameters import (
    AlphaParameter,
    ClassesParameter,
    ContainerParameter,
    FormatParameter,
    MaxSideParameter,
    TimeoutHeader,
    choose_answer,
    choose_scaling,
)
from app.routes.segment import ERRORS
from app.routes.sending import respond
from app.tasks.files import BatchTask
from app.tasks.segmentation import carry_out, open_context

router = APIRouter(prefix="/v1", tags=["segmentation"])

REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FILES_FIELD],
                "properties": {
                    FILES_FIELD: {
                        "type": "array",
                        "items": {**BINARY, "description": SUPPORTED},
                        "minItems": 1,
                    }
                },
            }
        }
    },
}

RESULTS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": FileResults,
        "description": "The result of each file, in order, even if every file has a problem",
        "content": {Container.ZIP.media_type: {"schema": BINARY}},
        "headers": {
            name: value for name, value in ANSWER_HEADERS.items() if name != "X-Mask-Shape"
        },
    },
}


@router.post(
    "/segment/batch",
    summary="Segment several images",
    response_class=Response,
    responses=RESULTS | ERRORS,
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def segment_batch(
    request: Request,
    format: FormatParameter = None,  # the query parameter's name
    container: ContainerParameter = None,
    max_side: MaxSideParameter = None,
    classes: ClassesParameter = None,
    alpha: AlphaParameter = ALPHA,
    timeout: TimeoutHeader = None,
) -> Response:
    """Segment several images, the multipart fields `files`: a JSON list, or a ZIP archive."""
    context = open_context(request)
    container = container or negotiate_container(join_header(request, "accept"))
    known = context.predictor.metadata.classes
    options = choose_answer(
        request, format or AnswerFormat.PNG, classes=classes, alpha=alpha, known=known
    )
    task = BatchTask(
        context=context,
        options=replace(options, accepts_gzip=container is Container.ZIP),
        container=container,
        scaling=choose_scaling(max_side, context.predictor.scaling),
        due=context.find_due(timeout),
        charges=request.scope.get("charges"),
    )
    read = partial(read_uploads, max_files=context.service.settings.max_files)
    answer, results = await carry_out(request, task, task.run, read=read)
    failed = sum(result.status != HTTPStatus.OK for result in results)
    request.scope["notes"] = {"files": len(results), "failed": failed}
    return respond(task, answer, media_type=container.media_type, headers={"Vary": "Accept"})
