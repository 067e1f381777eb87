"""The first step of every process of the service: read the settings and configure the log."""

import re
import sys

from pydantic import ValidationError

from app.observability.logs import configure_logging
from app.settings import PREFIX, Settings

EXIT_USAGE = 2


def load_settings() -> Settings:
    """Read the settings from the environment and configure the log with them.

    Invalid values end the program with one line for each.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        for invalid in error.errors():
            name = PREFIX + "_".join(str(part) for part in invalid["loc"]).upper()
            value = hide_password(str(invalid["input"]))
            print(f"error: {name}={value}: {invalid['msg']}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    return settings


def hide_password(text: str) -> str:
    """Replace the user and the password of a URL."""
    return re.sub(r"//.*@", "//***@", text)
