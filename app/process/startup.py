"""The first step of every process of the service: reads the settings and configures the log."""

import re
import sys
from collections.abc import Collection, Iterator

from pydantic import ValidationError

from app.arguments import format_setting
from app.observability.logs import configure_logging
from app.settings import Settings

EXIT_USAGE = 2


def load_settings(*, options: Collection[str] = ()) -> Settings:
    """Read the settings from the environment, and configure the log with them.

    For invalid values, prints one line each and exits. `options` are the names of the variables
    that were given as options of the command line.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        for given, message in list_invalid(error, options=options):
            print(f"error: {given}: {message}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    return settings


def list_invalid(
    error: ValidationError, *, options: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield each invalid setting as it was given, without passwords, and what is wrong with it."""
    for invalid in error.errors():
        setting = str(invalid["loc"][0])
        value = hide_password(setting, str(invalid["input"]))
        yield format_setting(setting, value, options=options), invalid["msg"]


def hide_password(setting: str, text: str) -> str:
    """Replace the value of a setting with a password, and the user and password of any URL.

    An invalid value with a password is replaced whole, because nothing says where in it the
    password is.
    """
    if not Settings.model_fields[setting].repr:
        return "***"
    return re.sub(r"//.*@", "//***@", text, flags=re.DOTALL)
