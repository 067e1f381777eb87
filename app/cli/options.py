"""The options, the summary and the exit statuses that `fcn segment` and `fcn bulk` share."""

import argparse
import os
import sys
from contextlib import suppress
from typing import NoReturn

from app.client import AsyncClient, Retries
from app.environment import EnvFileError, load_env_file
from app.formats import MAX_SIDE, MIN_SIDE
from app.observability.console import GREEN, RED, YELLOW, paint
from app.schemas import ModelInfo

EXIT_FAILURES, EXIT_USAGE, EXIT_NO_SERVER, EXIT_INTERRUPTED = 1, 2, 3, 130

PATIENT = Retries(attempts=20, max_wait_s=300)
"""A busy server may refuse requests for a while, and a batch can wait."""


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for requests."""
    add = parser.add_argument
    add("--key", default=os.environ.get("FCN_API_KEY"), help="API key (FCN_API_KEY)")
    add("--max-side", type=parse_side, metavar="PIXELS", help="scale longer photos down to this")
    add("--concurrency", type=parse_small_number, default=8, metavar="N",
        help="photos at the same time (%(default)s)")  # fmt: skip
    add("--timeout", type=parse_seconds, default=60, metavar="SECONDS",
        help="for each attempt to get a mask (%(default)s)")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bar")


def load_env_file_or_exit() -> None:
    """Add the variables in `.env` to the environment; exits if the file cannot be read."""
    try:
        load_env_file()
    except EnvFileError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def open_client(
    url: str, options: argparse.Namespace, *, retries: Retries = PATIENT
) -> AsyncClient:
    """Return a client that waits for a busy server; exits with 2 if the URL is invalid."""
    try:
        return AsyncClient(url, key=options.key, timeout_s=options.timeout, retries=retries)
    except ValueError as error:
        print(f"{paint('error', RED, sys.stderr)}: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


async def ask_model(url: str, options: argparse.Namespace) -> ModelInfo:
    """Ask the server for its model. Raises ClientError, after a few seconds if nothing answers.

    So a wrong address does not cost the minutes for which a running batch waits for its server.
    """
    async with open_client(url, options, retries=Retries()) as client:
        return await client.model()


def hides_progress(options: argparse.Namespace) -> bool:
    """Return whether to hide the progress bar: on request, or if the output is no terminal."""
    return options.quiet or not sys.stderr.isatty()


def summarise(*, written: int, skipped: str, failed: int, seconds: float) -> None:
    """Print a line of counts; `skipped` is the text about skipped photos, empty if none."""
    stream = sys.stderr
    parts = [paint(f"{written} written", GREEN, stream)]
    if skipped:
        parts.append(paint(skipped, YELLOW, stream))
    if failed:
        parts.append(paint(f"{failed} failed", RED, stream))
    rate = f", {written / seconds:.1f} photos/s" if written else ""
    print(f"{', '.join(parts)} in {seconds:.1f} s{rate}", file=stream)


def end_interrupted() -> NoReturn:
    """End the process after Ctrl-C."""
    print("interrupted: the same command resumes from here", file=sys.stderr)
    sys.exit(EXIT_INTERRUPTED)


def parse_small_number(text: str) -> int:
    """Parse a number from 1 to 1000. Raises ArgumentTypeError."""
    return _parse_integer(text, least=1, most=1000)


def parse_side(text: str) -> int:
    """Parse a side that the server takes. Raises ArgumentTypeError."""
    return _parse_integer(text, least=MIN_SIDE, most=MAX_SIDE)


def parse_names(text: str) -> list[str]:
    """Parse names separated by commas. Raises ArgumentTypeError."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not names separated by commas")
    return names


def parse_seconds(text: str) -> float:
    """Parse a time above 0. Raises ArgumentTypeError."""
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not a time above 0 s")


def _parse_integer(text: str, *, least: int, most: int) -> int:
    if not (text.isdecimal() and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
    return int(text)
