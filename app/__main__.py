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
from pydantic import ValidationError

from app.arguments import parse_arguments
from app.keys import KeysError
from app.logs import configure_logging
from app.settings import PREFIX, Settings, unknown_variables
from app.sockets import ListenError
from model.errors import ModelError
from model.weights import read_metadata

EXIT_USAGE = 2
EXAMPLE_PHOTO = "docs/images/cat.jpg"

log = structlog.get_logger("segmentation")


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    os.environ.update(parse_arguments(sys.argv[1:]))
    settings = configured()
    for name in unknown_variables(os.environ):
        log.warning("unknown setting, ignored", variable=name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the program is not this file
    try:
        read_metadata(settings.weights)  # what is no weights file is known at once
    except ModelError as error:
        sys.exit(f"error: cannot start: {error}")
    log.info("loading", weights=str(settings.weights), device=settings.device)
    try:
        sys.exit(supervised(settings) if settings.workers > 1 else alone(settings))
    except ListenError as error:
        sys.exit(f"error: cannot listen on {error.filename}: {error.strerror}")
    except (OSError, KeysError) as error:
        sys.exit(f"error: cannot start: {error}")


def configured() -> Settings:
    """Settings from the environment, and the log as they say.

    Ends the program with a line for each value out of bounds.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"error: {name}={problem['input']}: {problem['msg']}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    return settings


def alone(settings: Settings) -> int:
    """In this process."""
    from app.server import Server, serve

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


def supervised(settings: Settings) -> int:
    """In processes of their own, which are replaced when they end."""
    from app.supervisor import Supervisor

    return Supervisor(settings).run()


if __name__ == "__main__":
    main()
