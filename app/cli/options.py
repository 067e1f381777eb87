"""What `fcn segment` and `fcn bulk` have in common: their options, and their exit statuses."""

import argparse
import os

from app.client import Retries

EXIT_FAILURES, EXIT_USAGE, EXIT_NO_SERVER, EXIT_INTERRUPTED = 1, 2, 3, 130

PATIENT = Retries(attempts=20, max_wait_s=300)
"""A busy server refuses for a while; a batch has time."""


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add what one says of requests."""
    add = parser.add_argument
    add("--key", default=os.environ.get("FCN_API_KEY"), help="API key (FCN_API_KEY)")
    add("--max-side", type=int, metavar="PIXELS", help="scale longer photos down to this")
    add("--concurrency", type=parse_count, default=8, metavar="N",
        help="photos at the same time (%(default)s)")  # fmt: skip
    add("--timeout", type=float, default=60, metavar="SECONDS",
        help="for each attempt to get a mask (%(default)s)")  # fmt: skip
    add("--quiet", action="store_true", help="no progress bar")


def parse_count(text: str) -> int:
    """Return a number from 1 to 1000. Raises what argparse expects."""
    count = int(text)
    if not 1 <= count <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000")
    return count
