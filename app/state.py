"""The states of a service. Knows nothing of what leads to them."""

from enum import StrEnum

from app.errors import NotReady


class State(StrEnum):
    """The states of a service."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


def make_not_ready(state: State) -> NotReady:
    """Return the error of a request that a service in this state refuses."""
    return NotReady(
        f"The server is {state}.",
        remedy="Try again when /health/ready answers 200.",
        retry_after_s=1,
    )
