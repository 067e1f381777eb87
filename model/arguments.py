"""Numbers on the command line, and their bounds. Knows nothing of what they are for.

argparse prints the message of a value that is refused, and ends the program.
"""

from argparse import ArgumentParser, ArgumentTypeError

from model.scaling import SERVED, Scaling, scale_to

MAX_NUMBER = 2**63 - 1
"""The largest seed that PyTorch takes as a signed integer."""

MIN_SIDE = 32
"""The smallest side of an image: one cell of the network."""


def parse_count(text: str) -> int:
    """Parse an integer that is not negative."""
    return _parse_integer(text, 0)


def parse_number(text: str) -> int:
    """Parse an integer of at least 1."""
    return _parse_integer(text, 1)


def parse_scaling(text: str) -> Scaling:
    """Parse a longest side in pixels; 0 never scales."""
    side = _parse_integer(text, 0)
    if 0 < side < MIN_SIDE:
        raise ArgumentTypeError(f"{side}: 0, which never scales, or at least {MIN_SIDE} expected")
    return scale_to(side)


def add_scaling_option(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--max-side",
        type=parse_scaling,
        default=SERVED,
        dest="scaling",
        metavar="MAX_SIDE",
        help="scale longer images down to this; 0: never (default: the service's: images longer"
        f" than {SERVED.unscaled_side} to {SERVED.max_side})",
    )


def _parse_integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no integer") from None
    if not least <= value <= MAX_NUMBER:
        raise ArgumentTypeError(f"{text}: {least} or more, and less than 2**63, expected")
    return value
