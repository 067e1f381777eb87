"""The id of the request that the running task works for."""

import structlog


def current_request_id() -> str:
    """Of the request that is being handled here; empty outside of any."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
