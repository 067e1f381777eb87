"""The program: `python -m app` serves until SIGTERM or Ctrl-C, and then drains."""

import signal

if __name__ == "__main__":
    # Until the server takes signals Ctrl-C ends the process, and prints nothing; Python's own
    # handler would print where in the imports it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import sys
from concurrent.futures import Future

import structlog

from app.access.keys import KeysError
from app.arguments import parse_arguments
from app.process.sockets import ListenError
from app.process.startup import load_settings
from app.settings import Settings, unknown_variables
from model.errors import ModelError
from model.weights import read_metadata

EXAMPLE_PHOTO = "docs/images/cat.jpg"

log = structlog.get_logger("segmentation")


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    os.environ.update(parse_arguments(sys.argv[1:]))
    settings = load_settings()
    for name in unknown_variables(os.environ):
        log.warning("unknown setting, ignored", variable=name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the program is not this file
    try:
        read_metadata(settings.weights)  # what is no weights file is known at once
    except ModelError as error:
        sys.exit(f"error: cannot start: {error}")
    log.info("loading", weights=str(settings.weights), device=settings.device)
    try:
        sys.exit(serve_with_workers(settings) if settings.workers > 1 else serve_alone(settings))
    except ListenError as error:
        sys.exit(f"error: cannot listen on {error.filename}: {error.strerror}")
    except (OSError, KeysError) as error:
        sys.exit(f"error: cannot start: {error}")


def serve_alone(settings: Settings) -> int:
    """Serve in this process; returns the exit status."""
    from app.process.server import Server, serve

    server = Server(settings)

    def greet(started: Future[None]) -> None:
        if started.exception() is None and not server.should_exit:
            print(
                f"\nServing on {server.address}\nTry:  curl -F file=@{EXAMPLE_PHOTO} "
                f"{server.address}/v1/segment -o mask.png\n",
                flush=True,
            )

    if settings.log_format == "console":
        server.service.started.add_done_callback(greet)
    return serve(server)


def serve_with_workers(settings: Settings) -> int:
    """Serve in worker processes that a supervisor restarts; returns the exit status."""
    from app.process.supervisor import Supervisor

    return Supervisor(settings).run()


if __name__ == "__main__":
    main()
