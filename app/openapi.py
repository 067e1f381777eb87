"""The OpenAPI document of a server with the default settings, for docs/openapi.json.

Run `make openapi` after a change of the API; a test compares the file with the server's answer.
"""

import json

from app.main import create_app
from app.settings import Settings


def format_document() -> str:
    """Return the document as JSON."""
    return json.dumps(create_app(Settings()).openapi(), indent=1) + "\n"


if __name__ == "__main__":
    print(format_document(), end="")
