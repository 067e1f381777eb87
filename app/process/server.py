"""The HTTP server of one process on top of uvicorn: its sockets, signals and shutdown.

Knows nothing of images.
"""

import asyncio
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from socket import socket
from types import FrameType
from typing import NoReturn

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from app.errors import RequestError
from app.http.drain import GRACE_S
from app.main import create_app, create_operations_app
from app.observability import allocator
from app.observability.peers import Peers
from app.process.connections import ConnectionLimits, LimitedConnection
from app.process.ending import EXIT_DEAD, EXIT_DEVICE_LOST, end_process
from app.process.file_limit import raise_file_limit
from app.process.resets import ResetWatcher
from app.process.sockets import accept_waiting, bind, find_url
from app.service import Service
from app.settings import Settings

LAST_ANSWERS_S = 1
"""The seconds to send the last answers after the service has died."""

log = structlog.get_logger("segmentation")


class Server(uvicorn.Server):
    """Uvicorn's server, which drains the service when it is asked to stop, and then exits with 0.

    It waits for an event, while uvicorn's own loop polls ten times a second.
    """

    def __init__(
        self, settings: Settings, sockets: Sequence[socket] = (), *, peers: Peers | None = None
    ) -> None:
        """`sockets` come from `bind`, which is called if there are none. Raises ListenError.

        `peers` are the other workers, which share the sockets.
        """
        self.event_loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._should_exit = False
        self._is_interrupted = False
        self._operations: asyncio.Server | None = None
        self._reloading: set[asyncio.Task[None]] = set()
        self._sockets = list(sockets or bind(settings))
        self.address = find_url(self._sockets[0])
        """The URL of the server, with the port that the system chose for port 0."""
        self.operations_address = find_url(self._sockets[-1])
        """The URL of probes and metrics."""
        self.settings = settings
        self.failure: BaseException | None = None
        """The error that prevented the start."""
        app = create_app(settings, peers)
        self.service: Service = app.state.service
        super().__init__(self._build_config(app, max_connections=settings.max_connections))

    def run(self, sockets: list[socket] | None = None) -> None:
        """Serve until SIGTERM, Ctrl-C or the death of the service."""
        super().run(self._sockets[:1] if sockets is None else sockets)

    def _build_config(self, app: FastAPI, *, max_connections: int) -> uvicorn.Config:
        settings = self.settings
        limits = ConnectionLimits(
            max_connections=max_connections,
            head_timeout_s=settings.head_timeout_s,
            send_timeout_s=settings.send_timeout_s,
        )
        return uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=partial(  # type: ignore[arg-type]
                LimitedConnection,
                limits=limits,
                metrics=self.service.metrics,
                resets=ResetWatcher(),
            ),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,  # uvicorn updates it in the polling loop that is replaced here
            timeout_keep_alive=settings.idle_timeout_s,
            timeout_graceful_shutdown=settings.drain_timeout_s,
        )

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self.event_loop = asyncio.get_running_loop()
        raise_file_limit(self.settings.max_connections + self._count_image_files())
        if threading.current_thread() is threading.main_thread():
            self._take_signals(self.event_loop)
        await super().startup(sockets=sockets)
        for bound in self._sockets[1:]:
            self._operations = await self._start_operations(bound)
        self.service.started.add_done_callback(self._on_started)
        self.service.died.add_done_callback(self._on_died)

    def _count_image_files(self) -> int:
        """Return the number of files for images in shared memory: two for each large one."""
        return 2 * self.settings.max_queue if self.settings.engines else 0

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle signals in the event loop, between two callbacks.

        Uvicorn's handlers interrupt a callback, which may hold a lock that they need, such as the
        lock of a metric.
        """
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:  # workers ignore Ctrl-C
                loop.add_signal_handler(number, self.handle_exit, number, None)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replace uvicorn's signal handlers: until the loop is ready, signals end the process."""
        yield

    async def _start_operations(self, bound: socket) -> asyncio.Server:
        """Start a separate server for probes, which has no connection limit and closes last."""
        config = self._build_config(create_operations_app(self.service), max_connections=0)
        config.load()
        return await asyncio.get_running_loop().create_server(
            partial(make_protocol, config, ServerState()), sock=bound
        )

    async def main_loop(self) -> None:
        if not self.should_exit:
            await self._stopping.wait()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Answer accepted requests, at the limit with a 503. Probes are answered until the end."""
        self.service.drain()
        await self.stop_accepting()
        self._sockets[0].close()
        await asyncio.sleep(0)  # lets the loop release the sockets
        if self.failure is None:
            log.info("Shutting down")
        limit_s = self.config.timeout_graceful_shutdown or 0
        self.service.draining.end_within(limit_s)
        self.config.timeout_graceful_shutdown = limit_s + GRACE_S  # type: ignore[assignment]
        await super().shutdown(sockets=sockets)
        if self._operations is not None:
            self._operations.close()

    async def stop_accepting(self) -> None:
        """Accept the connections that the system has established, and no others."""
        if self.servers:
            await accept_waiting(self._sockets[0])
        for server in self.servers:
            server.close()

    @property
    def should_exit(self) -> bool:
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        """Stop the server; may be called from any thread or signal handler."""
        self._should_exit = value
        if value and self.event_loop is not None:
            with suppress(RuntimeError):  # the loop is already closed
                self.event_loop.call_soon_threadsafe(self._stopping.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.service.drain()
        if sig == signal.SIGINT:  # only a second Ctrl-C skips the drain
            self.force_exit = self._is_interrupted
            self._is_interrupted = True
        self.should_exit = True

    def reload(self) -> None:
        """Reload the weights in the background; the service logs and counts failures."""
        reloading = asyncio.ensure_future(self._reload())
        self._reloading.add(reloading)
        reloading.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        with suppress(RequestError):
            await self.service.reload()

    def _on_started(self, started: Future[None]) -> None:
        self.failure = started.exception()
        if self.failure is not None:
            self.should_exit = True
        elif not self.should_exit:
            self.take_requests()

    def take_requests(self) -> None:
        """Log that requests are accepted. The sockets are open from the start, for probes."""
        predictor = self.service.predictor
        log.info(
            "ready",
            address=self.address,
            operations=self.operations_address,
            engine=predictor.engine.description,
            weights=predictor.metadata.digest,
            docs=f"{self.address}/docs",
        )

    def _on_died(self, _: Future[None]) -> None:
        """Stop at once: every request has its answer, which only has to be sent."""
        self.config.timeout_graceful_shutdown = LAST_ANSWERS_S
        self.service.draining.end_within(LAST_ANSWERS_S)
        self.should_exit = True


def make_protocol(config: uvicorn.Config, state: ServerState) -> asyncio.Protocol:
    """Return the protocol object of a new connection, as uvicorn creates it."""
    return config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]


def serve(server: Server) -> NoReturn:
    """Run the server, print the error if it could not start, and end the process."""
    allocator.limit_kept_memory()
    server.run()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would print a traceback
    failure = server.failure
    if failure is not None:
        print(f"error: cannot start: {failure or type(failure).__name__}", file=sys.stderr)
        end_process(1)
    end_process(choose_status(server.service))


def choose_status(service: Service) -> int:
    if service.has_lost_device:
        return EXIT_DEVICE_LOST
    return EXIT_DEAD if service.is_stuck else 0
