"""The endpoints of orchestrators and Prometheus: /health/live, /health/ready and /metrics."""

from typing import Any

from fastapi import APIRouter, Request, Response, status
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from app.routes.health import find_state, is_usable
from app.schemas import Health
from app.service import Service, State

router = APIRouter(tags=["operations"])

UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    status.HTTP_503_SERVICE_UNAVAILABLE: {"model": Health}
}


@router.get("/health/live", responses=UNAVAILABLE)
async def live(request: Request, response: Response) -> Health:
    """Answer 503 if the service cannot work any more and should be replaced."""
    service: Service = request.app.state.service
    if not is_usable(service):
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Health(status="dead")
    return Health(status="alive")


@router.get("/health/ready", responses=UNAVAILABLE)
async def ready(request: Request, response: Response) -> Health:
    """Answer 503 until the engine is warm, and again after SIGTERM."""
    service: Service = request.app.state.service
    state = find_state(service)
    if state is not State.READY:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Health(status=state)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Answer in Prometheus' text format."""
    service: Service = request.app.state.service
    return Response(service.metrics.export(), media_type=CONTENT_TYPE_LATEST)
