"""The packages that training needs and serving does not: what to do if they are missing.

Imports none of them.
"""

import sys
from importlib.util import find_spec


def require_packages(*names: str, extra: str = "train") -> None:
    """End the program with one line unless all packages are installed. `extra` installs them."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        by_pip = f"pip install '.[{extra}]'"
        remedy = f"make training (or: {by_pip})" if extra == "train" else by_pip
        sys.exit(
            f"error: not installed here: {', '.join(missing)}. The service does not need them; "
            f"install them with: {remedy}"
        )


def name_program(otherwise: str) -> str:
    """Return the program's name: `fcn train` if it was started like that, else `otherwise`."""
    return sys.argv[0] if sys.argv[0].startswith("fcn ") else otherwise
