"""The program: `python -m app` serves until SIGTERM or Ctrl-C, and then drains."""

import signal

if __name__ == "__main__":
    # Until the server takes signals Ctrl-C ends the process, and prints nothing; Python's own
    # handler would print where in the imports it was.
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
from app.environment import load_env_file
from app.observability.traces import TracesError
from app.process.ending import end_process
from app.process.sockets import ListenError
from app.process.startup import load_settings
from app.settings import Settings, unknown_variables
from model.errors import ModelError
from model.weights import read_metadata

EXAMPLE_PHOTOS = (Path("docs/images/cat.jpg"), Path(__file__).parent / "web" / "sample.jpg")
"""The repository's photo for those who are in its folder, and the page's for everyone else."""

log = structlog.get_logger("segmentation")


def main() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    options, env_file = parse_arguments(sys.argv[1:], prog=name_program())
    os.environ.update(options)
    try:
        load_env_file(env_file)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: {env_file}: {error}")
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
        if settings.workers > 1:
            serve_with_workers(settings)
        serve_alone(settings)
    except ListenError as error:
        sys.exit(f"error: cannot listen on {error.filename}: {error.strerror}")
    except (OSError, KeysError, RateStorageError, TracesError) as error:
        sys.exit(f"error: cannot start: {error}")


def name_program() -> str:
    """Return how the program was started, for its messages."""
    return sys.argv[0] if sys.argv[0] == "fcn serve" else f"python -m {__package__}"


def find_photo() -> Path:
    """Return a photo to try the server with."""
    return next((photo for photo in EXAMPLE_PHOTOS if photo.is_file()), Path("PHOTO.jpg"))


def serve_alone(settings: Settings) -> NoReturn:
    """Serve in this process, and end it."""
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
    """Serve in worker processes that a supervisor restarts, and end this one after them."""
    from app.process.supervisor import Supervisor

    end_process(Supervisor(settings).run())


if __name__ == "__main__":
    main()
