"""The state that probes report, of this process and of the other workers, if there are any.

Knows nothing of HTTP.
"""

from app.service import Service
from app.state import State


def find_state(service: Service) -> State:
    """Return READY if this process or another worker accepts requests."""
    has_failed = service.state is State.READY and not service.is_alive
    own = State.FAILED if has_failed else service.state
    if service.peers is None:
        return own
    if service.peers.are_draining:
        return State.DRAINING
    if service.peers.some_take_requests:
        return State.READY
    return State.LOADING if own is State.READY else own


def is_usable(service: Service) -> bool:
    """Return whether this process works, or another worker does while this one is replaced."""
    return service.is_alive or (service.peers is not None and service.peers.some_take_requests)
