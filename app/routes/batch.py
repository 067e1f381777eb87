"""POST /v1/segment/batch: several files in, each with its own answer or its own problem."""

import math
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from app.codecs.answers import Answer
from app.file_schemas import FileResults
from app.formats import ALPHA, SUPPORTED, AnswerFormat, Container
from app.http.description import ANSWER_HEADERS, BINARY, describe_problems
from app.http.negotiation import negotiate_container
from app.http.problems import PROBLEMS
from app.http.uploads import FILES_FIELD, read_uploads
from app.observability.stages import Stages
from app.routes.files import BatchTask
from app.routes.parameters import (
    AlphaParameter,
    ClassesParameter,
    ContainerParameter,
    FormatParameter,
    MaxSideParameter,
    TimeoutHeader,
    choose_answer,
    choose_max_side,
)
from app.routes.segment import OTHERS
from app.routes.segmentation import carry_out
from app.routes.sending import AnswerResponse
from app.service import Service

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
        "description": "The result of each file, in order; also if all of them have problems",
        "content": {Container.ZIP.media_type: {"schema": BINARY}},
        "headers": {
            name: value for name, value in ANSWER_HEADERS.items() if name != "X-Mask-Shape"
        },
    },
}


@router.post(
    "/segment/batch",
    response_class=Response,
    responses=RESULTS | describe_problems(error for error in PROBLEMS if error not in OTHERS),
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
    service: Service = request.app.state.service
    stages: Stages = request.scope["stages"]
    container = container or negotiate_container(", ".join(request.headers.getlist("accept")))
    known = service.predictor.metadata.classes
    options = choose_answer(
        request, format or AnswerFormat.PNG, classes=classes, alpha=alpha, known=known
    )
    task = BatchTask(
        service=service,
        batcher=service.batcher,
        predictor=service.predictor,
        stages=stages,
        upload=request.scope["upload_share"],
        sent=request.scope["answer_share"],
        options=replace(options, accepts_gzip=container is Container.ZIP),
        container=container,
        max_side=choose_max_side(max_side, service.predictor.max_side),
        due=stages.started + min(timeout or math.inf, service.settings.deadline_s),
        charges=request.scope.get("charges"),
    )
    read = partial(read_uploads, max_files=service.settings.max_files)
    answer, results = await carry_out(request, task, task.run, read=read)
    failed = sum(result.status != HTTPStatus.OK for result in results)
    request.scope["notes"] = {"files": len(results), "failed": failed}
    return _respond(answer, task)


def _respond(answer: Answer, task: BatchTask) -> Response:
    return AnswerResponse(
        answer,
        media_type=task.container.media_type,
        headers={
            "Server-Timing": task.stages.format_server_timing(),
            "X-Weights-Digest": task.predictor.metadata.digest,
            "Vary": "Accept",
        },
        next_piece=task.next_piece,
    )
