"""create_app: the wiring of settings, service, middleware and routes. Nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.access.check import KeyCheck, describe_keys
from app.access.keys import Keyring
from app.access.rates import RateLimit
from app.codecs.pictures import prepare_pillow
from app.http import problems
from app.http.drain import DrainLimit
from app.http.gates import AdmissionGate, AnswerLimit, BodyLimit
from app.http.headers import SecurityHeaders, allow_origins
from app.http.methods import HeadAsGet
from app.http.paths import SEGMENT_PATH
from app.http.telemetry import RequestTelemetry
from app.observability.peers import Peers
from app.routes import admin, operations, pages, segment
from app.schemas import ProblemDetails
from app.service import Service
from app.settings import Settings, parse_origins, parse_rates


class Application(FastAPI):
    """FastAPI, whose description has the problem details, too.

    It would add them by itself where a response names them as its model, but as application/json.
    """

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            schemas = super().openapi()["components"]["schemas"]
            schemas[ProblemDetails.__name__] = ProblemDetails.model_json_schema()
        return super().openapi()


def create_app(settings: Settings, peers: Peers | None = None) -> FastAPI:
    """The application; its service, under `app.state.service`, starts with the lifespan.

    `peers`: the other processes that serve with this one, if any. Raises KeysError for a keys file
    that cannot be used.
    """
    prepare_pillow()
    service = Service(settings, peers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = Application(
        title="FCN segmentation service",
        summary="Semantic segmentation of photos: an upload in, its mask out.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # ours, with a policy for browsers
        redoc_url=None,
    )
    app.include_router(segment.router)
    app.include_router(admin.router)
    app.include_router(pages.router)
    if settings.operations_port is None:
        app.include_router(operations.router)
    # From the innermost to the outermost; what is not configured is not there.
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes, held=service.uploads)
    app.add_middleware(AnswerLimit, path=SEGMENT_PATH, held=service.answers)
    app.add_middleware(
        AdmissionGate,
        path=SEGMENT_PATH,
        admission=service.admission,
        deadline_s=settings.deadline_s,
    )
    if settings.rate_limit:
        app.add_middleware(RateLimit, rates=parse_rates(settings.rate_limit))
    if settings.keys_file is not None:
        app.add_middleware(KeyCheck, keyring=Keyring(settings.keys_file))
        describe_keys(app)
    app.add_middleware(DrainLimit, drain=service.ending)
    if settings.cors_origins:
        allow_origins(app, parse_origins(settings.cors_origins))
    return _observed(app, service)


def create_operations_app(service: Service) -> FastAPI:
    """Probes and metrics alone, for a port of their own."""
    app = FastAPI(title="FCN segmentation service: operations", docs_url=None, redoc_url=None)
    app.include_router(operations.router)
    return _observed(app, service)


def _observed(app: FastAPI, service: Service) -> FastAPI:
    app.state.service = service
    problems.add_handlers(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestTelemetry, metrics=service.metrics)
    app.add_middleware(SecurityHeaders)
    return app
