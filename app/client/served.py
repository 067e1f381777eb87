"""What the server says of its weights and limits, asked for when it is first needed."""

from app.client.exchange import Call, Request, Session, exchange, parse
from app.schemas import Limits, ModelInfo


def model(session: Session) -> Call[ModelInfo]:
    """Return the weights that serve: classes, colours, scores, digest, and requests' limits."""
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
    if names is None:  # other weights since: a palette's entries have their index for a name
        names = tuple(map(str, range(256)))
    return names


def find_limits(session: Session) -> Call[Limits]:
    """Return the limits of a request."""
    if session.limits is None:
        return (yield from model(session)).limits
    return session.limits
