"""Where our events and those of libraries go: standard error, one line each, nothing forged.

Callers choose paths, and sometimes the text of an exception: what is written is printable and
bounded, whoever wrote it. Knows nothing of requests.
"""

import logging
import sys
from io import StringIO
from typing import Any, TextIO

import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, ExcInfo

MAX_CHARACTERS = 500
"""Of one value, or of one line of a traceback."""
MAX_LINES = 200
"""Of a traceback, from both its ends."""

OURS = ("segmentation", "app", "model")


def configure_logging(*, level: str, log_format: str) -> None:
    """Send our events and those of libraries to standard error, all in one format."""
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
    if log_format == "json":
        last: list[Any] = [
            # Without the frames' variables: they hold images and headers.
            ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            printable_event,
            structlog.processors.JSONRenderer(),
        ]
    else:
        last = [
            printable_event,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=write_indented_traceback
            ),
        ]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries' debug messages hold what they work on: Pillow's the tags of an upload.
    root.setLevel(max(logging.INFO, logging.getLevelNamesMapping()[level.upper()]))
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    # Of its course uvicorn says nothing that we do not: a failed start is one line.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def printable_event(_: object, __: str, event: EventDict) -> EventDict:
    """A processor. What the console renders as an exception is `write_indented_traceback`'s."""
    return {name: value if name == "exc_info" else _safe(value) for name, value in event.items()}


def _safe(value: Any) -> Any:
    """The same where it is safe, and numbers and containers remain what they are."""
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {printable(str(name)): _safe(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(entry) for entry in value]
    return printable(repr(value))


def printable(text: str) -> str:
    """At most MAX_CHARACTERS; line ends and what a terminal obeys are as Python writes them."""
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text.rstrip("\n")
    )


def write_indented_traceback(sio: TextIO, exc_info: ExcInfo) -> None:
    """As Python writes it, each line indented: no exception's text can pass for an event."""
    text = StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    lines = text.getvalue().strip("\n").split("\n")
    if len(lines) > MAX_LINES:
        lines[MAX_LINES // 2 : -MAX_LINES // 2] = [f"... ({len(lines)} lines)"]
    for line in lines:
        sio.write(f"\n    {printable(line)}")
