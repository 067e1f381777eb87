"""The server's weights and limits, requested when they are first needed."""

from app.client.exchange import Call, Request, Session, exchange, parse
from app.schemas import Limits, ModelInfo


def model(session: Session) -> Call[ModelInfo]:
    """Return the weights in use (classes, colours, scores, digest) and the limits of requests."""
    response = yield from exchange(session, Request(method="GET", path="v1/model"))
    info = parse(response, ModelInfo)
    session.names[info.digest] = tuple(entry.name for entry in info.classes)
    session.limits = info.limits
    return info


def find_names(session: Session, digest: str) -> Call[tuple[str, ...]]:
    """Return the names of the classes of these weights."""
    if digest not in session.names:
        yield from model(session)
    names = session.names.get(digest)
    if names is None:  # the server has reloaded: name the classes by their indices
        names = tuple(map(str, range(256)))
    return names


def find_limits(session: Session) -> Call[Limits]:
    """Return the limits of a request."""
    if session.limits is None:
        return (yield from model(session)).limits
    return session.limits
