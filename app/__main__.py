"""The program: `python -m app` serves until SIGTERM or Ctrl-C, and then drains."""

import signal

if __name__ == "__main__":
    # Ctrl-C during the imports ends the process without output; Python's own handler would print a
    # traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import NoReturn

import structlog

from app.access.keys import KeysError
from app.access.shared_counts import RateStorageError
from app.arguments import parse_arguments
from app.environment import EnvFileError, load_env_file
from app.observability.traces import TracesError
from app.process.ending import end_process
from app.process.sockets import ListenError
from app.process.startup import load_settings
from app.settings import Settings, find_unknown_variables
from model.errors import ModelError
from model.weights import read_metadata

EXAMPLE_PHOTOS = (Path("docs/images/cat.jpg"), Path(__file__).parent / "web" / "sample.jpg")
"""The repository's photo, if it is in the current folder; otherwise the page's sample."""

log = structlog.get_logger("segmentation")


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing can be reloaded yet
    program = sys.argv[0] if sys.argv[0] == "fcn serve" else f"python -m {__package__}"
    options, env_file = parse_arguments(sys.argv[1:], prog=program)
    os.environ.update(options)
    try:
        load_env_file(env_file)
    except EnvFileError as error:
        sys.exit(f"error: {error}")
    settings = load_settings(options=options)
    for name in find_unknown_variables(os.environ):
        log.warning("unknown setting, ignored", variable=name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # not yet done if `fcn serve` imported this file
    try:
        read_metadata(settings.weights)  # fails at once if it is not a weights file
    except ModelError as error:
        sys.exit(f"error: cannot start: {error}")
    log.info("loading", weights=str(settings.weights), device=settings.device)
    try:
        if settings.workers > 1 or settings.engines:
            serve_with_workers(settings)
        serve_alone(settings)
    except ListenError as error:
        message = f"error: cannot listen on {error.filename}: {error.strerror}"
        remedy = error.suggest(options=options)
        sys.exit(f"{message}; {remedy}" if remedy else message)
    except (OSError, KeysError, RateStorageError, TracesError) as error:
        sys.exit(f"error: cannot start: {error}")


def find_photo() -> Path:
    """Return a photo to try the server with."""
    return next((photo for photo in EXAMPLE_PHOTOS if photo.is_file()), Path("PHOTO.jpg"))


def serve_alone(settings: Settings) -> NoReturn:
    """Serve in this process until it is told to stop, and end it."""
    from app.process.server import Server, serve

    server = Server(settings)

    def greet(started: Future[None]) -> None:
        if started.exception() is None and not server.should_exit:
            print(
                f"\nServing on {server.address}\nTry:  curl -F file=@{find_photo()} "
                f"{server.address}/v1/segment -o mask.png\n",
                flush=True,
            )

    if settings.log_format == "console":
        server.service.started.add_done_callback(greet)
    serve(server)


def serve_with_workers(settings: Settings) -> NoReturn:
    """Supervise the worker processes that serve, and end this process after them."""
    from app.process.supervisor import Supervisor

    end_process(Supervisor(settings).run())


if __name__ == "__main__":
    main()
