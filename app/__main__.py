"""The program: `python -m app` serves until SIGTERM or Ctrl-C, and then drains."""

import asyncio
import os
import signal
import sys
from concurrent.futures import Future
from socket import socket
from types import FrameType

import structlog
import uvicorn
from pydantic import ValidationError

from app.main import create_app
from app.service import Service
from app.settings import PREFIX, Settings, unknown_variables
from app.telemetry import configure_logging

EXIT_USAGE = 2
EXAMPLE_PHOTO = "docs/images/cat.jpg"

log = structlog.get_logger("segmentation")


class Server(uvicorn.Server):
    """Uvicorn, which tells the service first when it is asked to stop, and then exits with 0.

    It waits for that; uvicorn's own loop looks ten times a second, which an idle machine notices.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._should_exit = False
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Bind first: what is said of the address must be true."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self.service.started.add_done_callback(self._on_started)

    async def main_loop(self) -> None:
        if not self.should_exit:
            await self._stopping.wait()

    @property
    def should_exit(self) -> bool:
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        """From any thread or signal handler."""
        self._should_exit = value
        if value and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    @property
    def address(self) -> str:
        """Where it listens; with port 0, what the system chose."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.service.drain()
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    def _on_started(self, started: Future[None]) -> None:
        if started.exception() is not None:
            self.should_exit = True
        if self.should_exit:
            return
        predictor = self.service.predictor
        log.info(
            "ready",
            address=self.address,
            engine=predictor.engine.description,
            weights=predictor.metadata.digest,
            docs=f"{self.address}/docs",
        )
        if self.service.settings.log_format == "console":
            print(
                f"\nServing on {self.address}\nTry:  curl -F file=@{EXAMPLE_PHOTO} "
                f"{self.address}/v1/segment -o mask.png\n",
                flush=True,
            )


def main() -> None:
    settings = read_settings()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    for name in unknown_variables(os.environ):
        log.warning("unknown setting, ignored", variable=name)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,  # uvicorn's is made in the loop that ours does without; see telemetry
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    service: Service = app.state.service
    log.info("loading", weights=str(settings.weights), device=settings.device)
    Server(config, service).run()
    failure = service.started.exception() if service.started.done() else None
    if failure is not None:
        sys.exit(f"error: cannot start: {failure or type(failure).__name__}")


def read_settings() -> Settings:
    """From the environment; ends the program with a line for each value out of bounds."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"error: {name}={problem['input']}: {problem['msg']}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
