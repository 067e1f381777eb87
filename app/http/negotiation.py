"""Content negotiation: the answer format and type for an Accept header (RFC 9110, 12.5.1).

Knows the names and media types of the formats, and nothing of how they are encoded.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from starlette.requests import Request

from app.errors import NotAcceptable
from app.formats import MASK_FORMATS, AnswerFormat, Container

T = TypeVar("T")


def join_header(request: Request, name: str) -> str:
    """Return a header that lists values, which may be in several fields (RFC 9110, 5.3)."""
    return ", ".join(request.headers.getlist(name))


def negotiate(accept: str) -> AnswerFormat:
    """Return the mask format that the client prefers, or PNG without an Accept header.

    Raises NotAcceptable.
    """
    return _choose(
        MASK_FORMATS, accept, find_type=lambda offer: offer.media_types[0], parameter="format"
    )


def negotiate_container(accept: str) -> Container:
    """Return the container that the client prefers, or JSON without an Accept header.

    Raises NotAcceptable.
    """
    return _choose(
        tuple(Container), accept, find_type=lambda offer: offer.media_type, parameter="container"
    )


def _choose(
    offers: Sequence[T], accept: str, *, find_type: Callable[[T], str], parameter: str
) -> T:
    """Return the offer that the client prefers; the first one if it prefers several equally."""
    ranges = _parse_qualities(accept)
    if not ranges:
        return offers[0]
    best = max(offers, key=lambda offer: _find_quality(find_type(offer), ranges))
    if _find_quality(find_type(best), ranges) <= 0:
        offered = ", ".join(map(find_type, offers))
        raise NotAcceptable(
            f"Accept: {accept[:200]} allows none of {offered}.",
            remedy=f"Accept one of {offered}, or choose with ?{parameter}=.",
        )
    return best


def choose_media_type(answer_format: AnswerFormat, accept: str) -> str:
    """Return the type of this format that the client prefers; the first one if it accepts none."""
    ranges = _parse_qualities(accept)
    return max(answer_format.media_types, key=lambda media_type: _find_quality(media_type, ranges))


def _parse_qualities(header: str) -> list[tuple[str, float]]:
    """Return the values that a header lists, each with its quality (RFC 9110, 12.4.2)."""
    return [_parse_quality(part) for part in header.split(",") if part.strip()]


def _parse_quality(text: str) -> tuple[str, float]:
    listed, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return listed, quality


def _find_quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """Return the quality of the most specific range that matches, 0 if none does."""
    family = media_type.partition("/")[0]
    for pattern in (media_type, f"{family}/*", "*/*"):
        for media_range, quality in ranges:
            if media_range == pattern:
                return quality
    return 0.0


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip (RFC 9110, 12.5.3)."""
    codings = dict(_parse_qualities(accept_encoding))
    return codings.get("gzip", codings.get("*", 0.0)) > 0
