"""The endpoints for orchestrators and Prometheus: /health/live, /health/ready and /metrics."""

from typing import Any

from fastapi import APIRouter, Request, Response, status
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from app.http.description import EVERYWHERE, describe_problems
from app.routes.health import find_state, is_usable
from app.schemas import Health
from app.service import Service
from app.state import State

router = APIRouter(tags=["operations"])

PROBLEMS = describe_problems(EVERYWHERE)
UNAVAILABLE: dict[int | str, dict[str, Any]] = PROBLEMS | {
    503: {
        "model": Health,
        "description": f"The state, or: {PROBLEMS[503]['description']}",
        "content": {"application/json": {}, **PROBLEMS[503]["content"]},
    }
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "example": "# TYPE seg_ready gauge\nseg_ready 1.0\n",
            }
        },
    }
}


@router.get("/health/live", summary="Tell whether the server works", responses=UNAVAILABLE)
async def live(request: Request, response: Response) -> Health:
    """Answer 503 if the service cannot work any more and should be replaced."""
    service: Service = request.app.state.service
    if not is_usable(service):
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return Health(status="dead")
    return Health(status="alive")


@router.get("/health/ready", summary="Tell whether it takes requests", responses=UNAVAILABLE)
async def ready(request: Request, response: Response) -> Health:
    """Answer 503 until the engine is warm, and again after SIGTERM."""
    service: Service = request.app.state.service
    state = find_state(service)
    if state is not State.READY:
        response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Health(status=state)


@router.get(
    "/metrics",
    summary="Measure the service, for Prometheus",
    response_class=PlainTextResponse,
    responses=PROBLEMS | METRICS,
)
async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    service: Service = request.app.state.service
    await service.metrics.refresh()
    return Response(service.metrics.export(), media_type=CONTENT_TYPE_LATEST)
