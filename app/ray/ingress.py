"""An ingress replica: the whole application, whose engine is that of the engine replicas.

Knows nothing of routes: they are the server's.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RequestError
from app.main import create_app
from app.observability import allocator
from app.observability.logs import configure_logging
from app.ray.exporter import exporting
from app.ray.remote import RemoteStart
from app.service import Service
from app.settings import Settings

log = structlog.get_logger("segmentation")

ADDED_BY_THE_PROXY = frozenset({b"date", b"x-request-id"})


class WithoutProxyHeaders:
    """Middleware: leaves out the headers that Serve's proxy adds to every answer, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0] not in ADDED_BY_THE_PROXY]
                message = {**message, "headers": kept}
            await send(message)

        await self.app(scope, receive, send_without)


class IngressReplica:
    """The application in an actor of Serve, which gives it the requests of a node's proxy."""

    def __init__(self, settings: Settings, engines: DeploymentHandle[Any]) -> None:
        configure_logging(level=settings.log_level, log_format=settings.log_format)
        allocator.limit_kept_memory()
        # Two deadlines: what waits for an engine replica is answered by then and is not stuck.
        patience_s = max(settings.stuck_after_s, 2 * settings.deadline_s)
        self._settings = settings.model_copy(update={"stuck_after_s": patience_s})
        self._engines = engines
        self._telling: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Serve runs its lifespan."""
        app = create_app(self._settings, start=RemoteStart(self._engines))
        app.add_middleware(WithoutProxyHeaders)
        self._service: Service = app.state.service
        self._service.tell_others = self._tell_others
        _export_during_lifespan(app, self._service)
        return app

    async def reload(self, teller: str) -> None:
        """Read the weights file again, unless this replica has told the others to do so."""
        if serve.get_replica_context().replica_tag == teller:
            return
        try:
            await self._service.reload()
        except RequestError as error:  # which Ray cannot send to the teller
            raise RuntimeError(str(error)) from error

    async def check_health(self) -> None:
        """Return when the service has started. Raise if it has failed: Serve then replaces it."""
        if not self._service.started.done():
            # A check that Serve cancels must not cancel the start that the next one waits for.
            await asyncio.shield(asyncio.wrap_future(self._service.started))
        if not self._service.is_alive:
            raise RuntimeError("the service has failed")

    def _tell_others(self) -> None:
        """Make the other ingress replicas reload, too; engines get the weights with an image."""
        telling = asyncio.create_task(self._tell())
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self) -> None:
        here = serve.get_replica_context()
        replicas = serve.get_deployment_handle(here.deployment, here.app_name)
        told = replicas.broadcast("reload", here.replica_tag)
        try:
            log_failures(await told.results_async(return_exceptions=True))
        except Exception as error:  # nobody waits for this task
            log_failures([error])


def log_failures(results: Sequence[object]) -> None:
    """Write a line for each replica that may still use the old weights."""
    for result in results:
        if isinstance(result, BaseException):
            log.error("reload of another replica failed", error=str(result))


def _export_during_lifespan(app: FastAPI, service: Service) -> None:
    """Make the application export its metrics until the drain has ended."""
    start = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with exporting(service.metrics), start(app) as state:
            yield state

    app.router.lifespan_context = lifespan
