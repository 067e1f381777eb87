"""Which answer format a caller gets, from `?format=` or the Accept header (RFC 9110, 12.5.1).

Knows the formats' names and media types; knows nothing of how they are made.
"""

from app.errors import NotAcceptable
from app.formats import AnswerFormat


def negotiate(accept: str) -> AnswerFormat:
    """The caller's most preferred format; PNG if it does not say. Raises NotAcceptable."""
    ranges = [_parse_range(part) for part in accept.split(",") if part.strip()]
    if not ranges:
        return AnswerFormat.PNG
    best = max(AnswerFormat, key=lambda answer: _quality(answer.media_type, ranges))
    if _quality(best.media_type, ranges) <= 0:
        offered = ", ".join(answer.media_type for answer in AnswerFormat)
        raise NotAcceptable(
            f"Accept: {accept[:200]} allows none of {offered}.",
            remedy=f"Accept one of {offered}, or choose with ?format=png, json or npy.",
        )
    return best


def _parse_range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media_range, quality


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """The quality of the most specific range that matches; 0 if none does."""
    family = media_type.partition("/")[0]
    for pattern in (media_type, f"{family}/*", "*/*"):
        for media_range, quality in ranges:
            if media_range == pattern:
                return quality
    return 0.0


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip, or everything (RFC 9110, 12.5.3)."""
    codings = dict(_parse_range(part) for part in accept_encoding.split(",") if part.strip())
    return codings.get("gzip", codings.get("*", 0.0)) > 0
