"""The first step of every process of the service: reads the settings and configures the log."""

import re
import sys
from collections.abc import Iterator

from pydantic import ValidationError

from app.observability.logs import configure_logging
from app.settings import PREFIX, Settings

EXIT_USAGE = 2


def load_settings() -> Settings:
    """Read the settings from the environment, and configure the log with them.

    For invalid values, prints one line each and exits.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        for given, message in list_invalid(error):
            print(f"error: {given}: {message}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    return settings


def list_invalid(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield each invalid setting as NAME=VALUE, without passwords, and what is wrong with it."""
    for invalid in error.errors():
        name = PREFIX + "_".join(str(part) for part in invalid["loc"]).upper()
        yield f"{name}={hide_password(str(invalid['input']))}", invalid["msg"]


def hide_password(text: str) -> str:
    """Replace the user and the password in a URL."""
    return re.sub(r"//.*@", "//***@", text)
