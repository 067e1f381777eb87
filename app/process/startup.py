"""What every process of the service does first: read its settings, configure its log."""

import sys

from pydantic import ValidationError

from app.observability.logs import configure_logging
from app.settings import PREFIX, Settings

EXIT_USAGE = 2


def load_settings() -> Settings:
    """Read the settings from the environment and configure the log as they say.

    A value out of bounds ends the program, with one line for each.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"error: {name}={problem['input']}: {problem['msg']}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    return settings
