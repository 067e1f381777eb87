"""POST /v1/segment and GET /v1/model."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app import images
from app.accept import AnswerFormat, negotiate
from app.errors import MEDIA_TYPE, PROBLEMS
from app.schemas import ClassInfo, Limits, ModelInfo, ProblemDetails, Segmentation
from app.service import Service
from app.telemetry import Stages
from app.uploads import FIELD, read_upload
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
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The mask, at the upload's size",
        "content": {
            "image/png": {"schema": BINARY},
            "application/json": {"schema": Segmentation.model_json_schema()},
            "application/x-npy": {"schema": BINARY},
        },
    }
}
RESPONSES.update(
    {
        int(problem.status): {
            "description": problem.title,
            "content": {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}},
        }
        for problem in PROBLEMS
    }
)


@router.post(
    "/segment",
    response_class=Response,
    responses=RESPONSES,
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
) -> Response:
    """Segment one image: send it as the multipart field `file` or as the raw body."""
    service: Service = request.app.state.service
    batcher, predictor = service.batcher, service.predictor
    answer = format or negotiate(request.headers.get("accept"))
    stages = Stages()
    with stages.timed("read"):
        data = await read_upload(request)

    def decode_and_prepare() -> Canvas:
        image = images.decode(data, max_pixels=service.settings.max_pixels)
        return predictor.prepare(image, max_side=smaller_side(max_side, predictor.max_side))

    with batcher.admitted():
        with stages.timed("decode"):
            canvas = await service.on_codec_thread(decode_and_prepare)
        segmented = await batcher.submit(canvas)
        stages.seconds |= {"queue": segmented.queue_s, "inference": segmented.inference_s}
        with stages.timed("encode"):
            body = await service.on_codec_thread(
                images.encode, segmented.mask, answer, predictor.metadata
            )
    stages.observe(service.telemetry)
    return Response(
        body,
        media_type=answer.media_type,
        headers={
            "Server-Timing": stages.server_timing(),
            "X-Weights-Digest": predictor.metadata.digest,
            "Vary": "Accept",
        },
    )


def smaller_side(asked: int | None, limit: int) -> int:
    """The caller may ask for a smaller `max_side` than the operator's, not for a larger one."""
    if asked is None:
        return limit
    return min(asked, limit) if limit else asked


@router.get("/model")
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
