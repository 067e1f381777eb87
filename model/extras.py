"""The packages that training needs and serving does not: what to do where they are missing.

Imports none of them.
"""

import sys
from importlib.util import find_spec


def require_packages(*names: str) -> None:
    """Ends the program with one line unless all are installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        sys.exit(
            f"error: not installed here: {', '.join(missing)}. What serves does not need them; "
            "install them with: make training (or: pip install '.[train]')"
        )
