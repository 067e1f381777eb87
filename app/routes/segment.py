"""POST /v1/segment and GET /v1/model."""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from app.codecs import decode
from app.codecs.answers import Answer, make_answer
from app.errors import Forbidden, NotReady, PreflightRefused, ReloadFailed
from app.formats import AnswerFormat
from app.http.negotiation import accepts_gzip, negotiate
from app.http.problems import PROBLEMS, describe_problems
from app.http.uploads import FIELD, read_upload, while_connected
from app.observability.stages import Stages
from app.routes.sending import AnswerResponse
from app.scheduling.budget import Share
from app.schemas import ClassInfo, Limits, ModelInfo, Segmentation
from app.service import Service
from model.predictor import Canvas

router = APIRouter(prefix="/v1", tags=["segmentation"])

BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: BINARY}}
        },
        "image/*": {"schema": BINARY},
        "application/octet-stream": {"schema": BINARY},
    },
}


OTHERS = (Forbidden, ReloadFailed, PreflightRefused)
"""Problems of other routes."""

MASK: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Segmentation,
        "description": "The mask, at the upload's size",
        "content": {"image/png": {"schema": BINARY}, "application/x-npy": {"schema": BINARY}},
    },
}


@router.post(
    "/segment",
    response_class=Response,
    responses=MASK | describe_problems(problem for problem in PROBLEMS if problem not in OTHERS),
    openapi_extra={"requestBody": REQUEST_BODY},
)
async def segment(
    request: Request,
    format: Annotated[  # the query parameter's name
        AnswerFormat | None, Query(description="Answer format; goes before the Accept header")
    ] = None,
    max_side: Annotated[
        int | None,
        Query(ge=32, le=65536, description="Scale a longer image down to this, for this request"),
    ] = None,
    timeout: Annotated[
        float | None,
        Header(
            alias="X-Request-Timeout",
            gt=0,
            description="Seconds that the caller waits; a mask that would come later is refused",
        ),
    ] = None,
) -> Response:
    """Segment one image: send it as the multipart field `file` or as the raw body."""
    service: Service = request.app.state.service
    stages: Stages = request.scope["stages"]
    batcher, predictor = service.batcher, service.predictor
    answer = format or negotiate(", ".join(request.headers.getlist("accept")))
    due = stages.started + min(timeout or math.inf, service.settings.deadline_s)
    service.admission.require_place(due)  # before the body is read, and again when it has come
    stages.enter("read")
    data = await read_upload(request, due)
    upload: Share = request.scope["upload_share"]
    sent: Share = request.scope["answer_share"]
    side = smaller_side(max_side, predictor.max_side)
    gzip = accepts_gzip(", ".join(request.headers.getlist("accept-encoding")))

    async def segmented() -> Answer:
        async with service.admission.admitted(due) as place:

            def prepare(image: decode.Decoded) -> Canvas:
                return predictor.prepare(image.pixels, max_side=side, size=image.size)

            def encode() -> Answer:
                made = make_answer(mask, answer, predictor.metadata, accepts_gzip=gzip)
                sent.take(made.held_bytes)
                return made

            stages.enter("decode")
            canvas = await service.decode(
                data, max_side=side, reserve=place.take, finish=prepare, held=(place, upload)
            )
            mask = await batcher.submit(predictor.predict, canvas, stages, held=place)
            stages.enter("encode")
            return await service.on_codec_thread(encode, held=(place, sent))

    made = await while_connected(request, segmented())
    upload.end()
    stages.enter("send")

    async def next_piece(answer: Answer) -> bytes | None:
        return await service.on_codec_thread(next, answer.pieces, None, held=(sent,), first=True)

    return AnswerResponse(
        made,
        media_type=answer.media_type,
        headers={
            "Server-Timing": stages.server_timing(),
            "X-Weights-Digest": predictor.metadata.digest,
            "Vary": "Accept, Accept-Encoding",
        },
        next_piece=next_piece,
    )


def smaller_side(asked: int | None, limit: int) -> int:
    """The caller may ask for a smaller `max_side` than the operator's, not for a larger one."""
    if asked is None:
        return limit
    return min(asked, limit) if limit else asked


@router.get("/model", responses=describe_problems([NotReady]))
async def model(request: Request) -> ModelInfo:
    """The weights that serve: classes, colours, scores, digest, device and limits."""
    service: Service = request.app.state.service
    predictor, settings = service.predictor, service.settings
    metadata = predictor.metadata
    named = enumerate(zip(metadata.classes, metadata.palette, strict=True))
    return ModelInfo(
        architecture=metadata.architecture,
        digest=metadata.digest,
        engine=predictor.engine.description,
        device=predictor.engine.device,
        classes=[ClassInfo(index=i, name=name, colour=colour) for i, (name, colour) in named],
        mean=metadata.mean,
        std=metadata.std,
        scores=dict(metadata.scores),
        recipe=dict(metadata.recipe),
        data=dict(metadata.data),
        limits=Limits(
            max_body_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
            max_side=settings.max_side,
            max_queue=settings.max_queue,
        ),
    )
