"""Make an API key: `python -m app.keys NAME >> keys.txt`.

Knows nothing of how keys are checked.
"""

import argparse
import sys

from app import __version__
from app.access.keys import NAME, line_of, new_key


def main() -> None:
    """The line goes to standard output, to be appended; the key to the terminal, once."""
    parser = argparse.ArgumentParser(
        prog="python -m app.keys", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("name", metavar="NAME", help="who gets the key; shown in the log")
    parser.add_argument("--admin", action="store_true", help="the key may also administer")
    arguments = parser.parse_args()
    if not NAME.fullmatch(arguments.name):
        parser.error(f"{arguments.name!r}: a name has 1 to 64 letters, digits, '.', '_' or '-'")
    key = new_key()
    print(f"The key of {arguments.name}, shown only now:\n{key}", file=sys.stderr, flush=True)
    print(line_of(arguments.name, key, admin=arguments.admin))


if __name__ == "__main__":
    main()
