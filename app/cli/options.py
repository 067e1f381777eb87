"""The options, the summary and the exit statuses that `fcn segment` and `fcn bulk` share."""

import argparse
import os
import sys
from typing import NoReturn

from app.client import AsyncClient, Retries
from app.observability.console import GREEN, RED, YELLOW, paint

EXIT_FAILURES, EXIT_USAGE, EXIT_NO_SERVER, EXIT_INTERRUPTED = 1, 2, 3, 130

PATIENT = Retries(attempts=20, max_wait_s=300)
"""A busy server may refuse requests for a while, and a batch can wait."""


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for requests."""
    add = parser.add_argument
    add("--key", default=os.environ.get("FCN_API_KEY"), help="API key (FCN_API_KEY)")
    add("--max-side", type=int, metavar="PIXELS", help="scale longer photos down to this")
    add("--concurrency", type=parse_count, default=8, metavar="N",
        help="photos at the same time (%(default)s)")  # fmt: skip
    add("--timeout", type=float, default=60, metavar="SECONDS",
        help="for each attempt to get a mask (%(default)s)")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bar")


def open_client(url: str, options: argparse.Namespace) -> AsyncClient:
    """Return a client that waits for a busy server; exits if the URL is invalid."""
    try:
        return AsyncClient(url, key=options.key, timeout_s=options.timeout, retries=PATIENT)
    except ValueError as error:
        sys.exit(f"error: {error}")


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


def parse_count(text: str) -> int:
    """Parse a number from 1 to 1000. Raises ArgumentTypeError and ValueError."""
    count = int(text)
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000")
    return count
