"""What probes are told: of this process, and of its peers where it has some.

Knows nothing of HTTP.
"""

from app.service import Service, State


def readiness(service: Service) -> State:
    """READY while requests are taken, by this process or by one of its peers."""
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
    """Whether this process works, or one of its peers does while this one is replaced."""
    return service.is_alive or (service.peers is not None and service.peers.some_take_requests)
