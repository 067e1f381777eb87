"""Logging: one line on standard error for each event, of this package and of libraries.

Clients choose paths, and sometimes the text of an exception. So every value is made printable and
is limited in length: no client can forge a line. Knows nothing of requests.
"""

import logging
import sys
from io import StringIO
from typing import Any, TextIO

import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, ExcInfo

from app.observability.console import is_coloured

MAX_CHARACTERS = 500
"""The limit of one value, or of one line of a traceback."""
MAX_LINES = 200
"""The limit of a traceback; the middle of a longer one is left out."""

OURS = ("segmentation", "app", "model", "fcn_service")


def configure_logging(*, level: str, log_format: str) -> None:
    """Send all events, of this package and of libraries, to standard error in one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_choose_renderers(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Debug messages of libraries contain data of clients: Pillow's, the tags of an upload.
    root.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    # Uvicorn's messages repeat those of this package.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _choose_renderers(log_format: str) -> list[Any]:
    """Return the processors that turn an event into a line: JSON, or text for a terminal."""
    if log_format == "json":
        return [
            # Local variables are left out, because they hold images and headers.
            ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            make_event_printable,
            structlog.processors.JSONRenderer(),
        ]
    return [
        make_event_printable,
        structlog.dev.ConsoleRenderer(
            colors=is_coloured(sys.stderr), exception_formatter=write_indented_traceback
        ),
    ]


def make_event_printable(_: object, __: str, event: EventDict) -> EventDict:
    """Make every value printable, as a processor of structlog.

    The console's tracebacks are left to `write_indented_traceback`.
    """
    return {
        name: value if name == "exc_info" else _make_safe(value) for name, value in event.items()
    }


def _make_safe(value: Any) -> Any:
    """Return a value with printable texts; numbers and containers keep their types."""
    if isinstance(value, str):
        return make_printable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {make_printable(str(name)): _make_safe(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_make_safe(entry) for entry in value]
    return make_printable(repr(value))


def make_printable(text: str) -> str:
    """Return at most MAX_CHARACTERS of a text, with its control characters escaped."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.rstrip("\n")
    )


def write_indented_traceback(sio: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback with indented lines, so that no exception's text looks like an event."""
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    lines = text.getvalue().strip("\n").split("\n")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES // 2 : -MAX_LINES // 2] = [f"... ({len(lines)} lines)"]
    for line in lines:
        sio.write(f"\n    {make_printable(line)}")
