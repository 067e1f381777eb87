"""Runs a server in this process, for commands without a server."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from app.cli.options import EXIT_NO_SERVER
from app.process.server import Server
from app.process.startup import load_settings
from app.settings import Settings
from model.errors import ModelError

PATIENCE_S = 3600
"""The time in which a photo is computed, however busy the machine is."""


@contextmanager
def serve_locally(settings: Settings | None = None) -> Iterator[str]:
    """Run a server with these or the environment's settings on a free local port; yields its URL.

    It refuses, decodes and computes like any server with these settings. Raises ModelError, or
    another error that prevents the start.
    """
    server = Server(adapt(settings or Settings()))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        server.service.started.result()
        yield server.address
    finally:
        server.should_exit = True
        thread.join()


def adapt(settings: Settings) -> Settings:
    """Return the settings of a server for one command, which is patient and alone."""
    alone = {"host": "127.0.0.1", "port": 0, "operations_port": None, "workers": 1}
    alone |= {"keys_file": None, "rate_limit": "", "deadline_s": PATIENCE_S}
    # A busy machine may stop a batch for longer than a server's callers would wait.
    stuck_after_s = max(settings.stuck_after_s, PATIENCE_S)
    return settings.model_copy(update=alone | {"stuck_after_s": stuck_after_s})


@contextmanager
def serve_for_command() -> Iterator[str]:
    """Like `serve_locally`, with a quiet log; exits with one line if the server cannot start."""
    os.environ.setdefault("SEG_LOG_LEVEL", "warning")
    load_settings()  # reports invalid settings, and configures the log
    try:
        with serve_locally() as url:
            yield url
    except ModelError as error:
        end_unable(error)


def end_unable(error: ModelError) -> NoReturn:
    """End the process, because this machine cannot compute with these settings."""
    print(f"error: cannot compute here: {error}", file=sys.stderr)
    sys.exit(EXIT_NO_SERVER)
