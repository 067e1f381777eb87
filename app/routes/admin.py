"""POST /v1/admin/reload: the endpoints for administrators."""

from fastapi import APIRouter, Depends, Request

from app.access.check import require_admin
from app.errors import Forbidden, Overloaded, ReloadFailed
from app.http.description import LIMITED, describe_problems
from app.schemas import Reloaded
from app.service import Service

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(require_admin)])


@router.post(
    "/reload",
    summary="Load the weights file again",
    responses=describe_problems((*LIMITED, Forbidden, Overloaded, ReloadFailed)),
)
async def reload(request: Request) -> Reloaded:
    """Load the weights file again, as SIGHUP does; requires an admin's key.

    The new weights are loaded, checked against a known mask and warmed up while the old ones serve
    requests. If anything fails, the old weights stay in use.
    """
    service: Service = request.app.state.service
    predictor = await service.reload()
    service.tell_others()
    return Reloaded(digest=predictor.metadata.digest, engine=predictor.engine.description)
