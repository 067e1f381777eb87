"""POST /v1/admin/reload: what an operator does to a running server."""

from fastapi import APIRouter, Depends, Request

from app.access.check import require_admin
from app.errors import Forbidden, NotReady, ReloadFailed, TooManyRequests, Unauthorized
from app.http.problems import describe_problems
from app.schemas import Reloaded
from app.service import Service

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(require_admin)])


@router.post(
    "/reload",
    responses=describe_problems((Unauthorized, Forbidden, ReloadFailed, TooManyRequests, NotReady)),
)
async def reload(request: Request) -> Reloaded:
    """Serve with the weights file as it is now, as SIGHUP does; an admin's key is needed.

    The new weights are read, held against a known mask and warmed up beside the old ones, which
    serve on if anything fails.
    """
    service: Service = request.app.state.service
    predictor = await service.reload()
    service.tell_others()
    return Reloaded(digest=predictor.metadata.digest, engine=predictor.engine.description)
