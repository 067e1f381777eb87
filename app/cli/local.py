"""A server in this process, for commands that are to work without one."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.process.server import Server
from app.process.startup import load_settings
from app.settings import Settings
from model.errors import ModelError


@contextmanager
def serve_locally() -> Iterator[str]:
    """The address of a server with the environment's settings, on a free port of this machine.

    It refuses, decodes and computes as any server of these settings does. Raises what prevents its
    start, among others ModelError.
    """
    alone = {"host": "127.0.0.1", "port": 0, "operations_port": None, "workers": 1}
    settings = Settings().model_copy(
        update=alone | {"keys_file": None, "rate_limit": "", "deadline_s": 3600}
    )
    server = Server(settings)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        server.service.started.result()
        yield server.address
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serve_for_command() -> Iterator[str]:
    """As `serve_locally`, with a quiet log; ends the process with a line if it cannot start."""
    os.environ.setdefault("SEG_LOG_LEVEL", "warning")
    load_settings()  # tells of wrong ones, and configures the log
    try:
        with serve_locally() as url:
            yield url
    except ModelError as error:
        sys.exit(f"error: cannot compute here: {error}")
