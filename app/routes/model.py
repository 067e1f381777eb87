"""GET /v1/model: the weights that are in use, their classes, and the limits of requests."""

from fastapi import APIRouter, Request

from app.http.description import LIMITED, describe_problems
from app.schemas import ClassInfo, Limits, ModelInfo
from app.service import Service
from app.settings import Settings
from model.weights import Metadata

router = APIRouter(prefix="/v1", tags=["segmentation"])


@router.get(
    "/model", summary="Describe the weights and the limits", responses=describe_problems(LIMITED)
)
async def model(request: Request) -> ModelInfo:
    """The weights in use (classes, colours, scores, digest), the device and the limits."""
    service: Service = request.app.state.service
    engine, metadata = service.predictor.engine, service.predictor.metadata
    return ModelInfo(
        architecture=metadata.architecture,
        digest=metadata.digest,
        engine=engine.description,
        device=engine.device,
        classes=_list_classes(metadata),
        mean=metadata.mean,
        std=metadata.std,
        scores=dict(metadata.scores),
        recipe=dict(metadata.recipe),
        data=dict(metadata.data),
        limits=_list_limits(service.settings),
    )


def _list_classes(metadata: Metadata) -> list[ClassInfo]:
    named = enumerate(zip(metadata.classes, metadata.palette, strict=True))
    return [ClassInfo(index=i, name=name, colour=colour) for i, (name, colour) in named]


def _list_limits(settings: Settings) -> Limits:
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_pixels=settings.max_pixels,
        max_side=settings.max_side,
        unscaled_side=settings.unscaled_side,
        max_queue=settings.max_queue,
        max_files=settings.max_files,
    )
