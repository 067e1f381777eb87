"""create_app: the wiring of settings, service, middleware and routes. Nothing else."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.access.check import KeyCheck, describe_keys
from app.access.counts import Counts, OwnCounts
from app.access.keys import Keyring
from app.access.rates import RateLimit
from app.access.shared_counts import SharedCounts
from app.codecs.pillow import prepare_pillow
from app.http import problems
from app.http.description import list_examples
from app.http.drain import DrainLimit
from app.http.gates import AdmissionGate, AnswerLimit, BodyLimit
from app.http.headers import SecurityHeaders, allow_origins
from app.http.memory import MemoryRelease
from app.http.methods import HeadAsGet
from app.http.paths import IMAGE_PATHS
from app.http.telemetry import RequestTelemetry
from app.loading import Start, start_here
from app.observability.peers import Peers
from app.observability.traces import LAST_EXPORT_S, Traces, open_traces
from app.protocol_schemas import ProtocolError
from app.routes import admin, batch, model, openinference, operations, pages, segment
from app.scheduling.threads import run_on_daemon
from app.schemas import ProblemDetails
from app.service import Service
from app.setting_syntax import parse_origins, parse_rates
from app.settings import Settings


class Application(FastAPI):
    """A FastAPI application whose OpenAPI document includes the schemas and examples of errors.

    FastAPI itself adds the schema of a response model only as application/json.
    """

    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            components = super().openapi()["components"]
            for schema in (ProblemDetails, ProtocolError):
                components["schemas"][schema.__name__] = schema.model_json_schema()
            components["examples"] = list_examples()
        return super().openapi()


def create_app(
    settings: Settings, peers: Peers | None = None, *, start: Start = start_here
) -> FastAPI:
    """Return the application; its service, `app.state.service`, starts with the lifespan.

    `peers` are the other workers, if there are any; `start` starts the predictor. Raises KeysError
    if the keys file is invalid, and RateStorageError or TracesError if a package that they need is
    missing.
    """
    prepare_pillow()
    service = Service(settings, peers, start=start)
    counts = _choose_counts(settings, service)
    traces = open_traces() if settings.traces else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if traces is not None:
                stack.push_async_callback(run_on_daemon, traces.close, LAST_EXPORT_S)
            await stack.enter_async_context(aclosing(counts))
            await stack.enter_async_context(service.running())
            yield

    app = Application(
        title="FCN segmentation service",
        summary="Semantic segmentation of photos: an upload in, its mask out.",
        version=__version__,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # `pages` has its own, with a content security policy
        redoc_url=None,
        redirect_slashes=False,  # the address would be made of the request's Host field
    )
    _add_routes(app, settings)
    _add_limits(app, settings, service, counts)
    if settings.cors_origins:
        allow_origins(app, parse_origins(settings.cors_origins))
    return _observe(app, service, traces)


def create_operations_app(service: Service) -> FastAPI:
    """Return an application with probes and metrics only, for a separate port."""
    app = FastAPI(
        title="FCN segmentation service: operations",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(operations.router)
    return _observe(app, service)


def _observe(app: FastAPI, service: Service, traces: Traces | None = None) -> FastAPI:
    app.state.service = service
    problems.add_handlers(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RequestTelemetry, metrics=service.metrics, traces=traces)
    app.add_middleware(SecurityHeaders)
    return app


def _add_routes(app: FastAPI, settings: Settings) -> None:
    for part in (segment, batch, model, admin, openinference):
        app.include_router(part.router)
    app.include_router(pages.make_router())
    if settings.operations_port is None:
        app.include_router(operations.router)


def _add_limits(app: FastAPI, settings: Settings, service: Service, counts: Counts) -> None:
    """Add the middleware from the innermost to the outermost, without what is not configured."""
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes, budget=service.uploads)
    app.add_middleware(AnswerLimit, paths=IMAGE_PATHS, budget=service.answers)
    app.add_middleware(
        AdmissionGate,
        paths=IMAGE_PATHS,
        admission=service.admission,
        deadline_s=settings.deadline_s,
    )
    app.add_middleware(MemoryRelease, paths=IMAGE_PATHS)
    if settings.rate_limit:
        app.add_middleware(RateLimit, counts=counts)
    if settings.keys_file is not None:
        app.add_middleware(KeyCheck, keyring=Keyring(settings.keys_file))
        describe_keys(app)
    app.add_middleware(DrainLimit, drain=service.draining)


def _choose_counts(settings: Settings, service: Service) -> Counts:
    rates = parse_rates(settings.rate_limit) if settings.rate_limit else []
    if not (rates and settings.rate_storage):
        return OwnCounts(rates)
    return SharedCounts(settings.rate_storage, rates, fallbacks=service.metrics.rate_fallbacks)
