"""The id of the request for which the current task runs."""

import structlog


def get_request_id() -> str:
    """Return the id, or an empty string outside of a request."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
