"""Makes an API key: `python -m app.keys NAME >> keys.txt`.

Knows nothing of how keys are checked.
"""

import argparse
import sys

from app import __version__
from app.access.keys import NAME, format_line, make_key


def main() -> None:
    """Print the key to the terminal, once, and its line of the keys file to standard output."""
    parser = argparse.ArgumentParser(
        prog=sys.argv[0] if sys.argv[0] == "fcn keys" else "python -m app.keys",
        description=main.__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("name", metavar="NAME", help="who gets the key; shown in the log")
    parser.add_argument("--admin", action="store_true", help="the key may also administer")
    arguments = parser.parse_args()
    if not NAME.fullmatch(arguments.name):
        parser.error(f"{arguments.name!r}: a name has 1 to 64 letters, digits, '.', '_' or '-'")
    key = make_key()
    print(f"The key of {arguments.name}, shown only now:\n{key}", file=sys.stderr, flush=True)
    print(format_line(arguments.name, key, admin=arguments.admin))


if __name__ == "__main__":
    main()
