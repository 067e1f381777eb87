"""The parameters of a segmentation request, and the answer that they ask for.

Knows nothing of uploads, or of how answers are encoded.
"""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Header, Query, Request
from pydantic.json_schema import SkipJsonSchema

from app.errors import InvalidParameter
from app.formats import ALPHA, MAX_SIDE, MIN_SIDE, AnswerFormat, AnswerOptions, Container
from app.http.negotiation import accepts_gzip, choose_media_type, join_header, negotiate
from model.scaling import Scaling, scale_to

# With `SkipJsonSchema[None]`, a generated client can omit a parameter, but cannot send null.
FormatParameter = Annotated[
    AnswerFormat | SkipJsonSchema[None],
    Query(description="Answer format; overrides the Accept header"),
]
ContainerParameter = Annotated[
    Container | SkipJsonSchema[None],
    Query(description="Format of the list of answers; overrides the Accept header"),
]
MaxSideParameter = Annotated[
    int | SkipJsonSchema[None],
    Query(
        ge=MIN_SIDE,
        le=MAX_SIDE,
        description="Scale a larger image down, so that its longer side has this many pixels",
        examples=[512],
    ),
]
ClassesParameter = Annotated[
    list[str] | SkipJsonSchema[None],
    Query(
        max_length=256,
        description="Names or indices of the classes to keep, separated by commas; pixels of "
        "others become index 0. Not for format=confidence",
        examples=[["person", "dog"]],
    ),
]
AlphaParameter = Annotated[
    float,
    Query(
        ge=0,
        le=1,
        description="Opacity of the classes' colours in format=overlay",
        examples=[ALPHA],
    ),
]
TimeoutHeader = Annotated[
    float | SkipJsonSchema[None],
    Header(
        alias="X-Request-Timeout",
        gt=0,
        description="Seconds that the client waits; a request that would take longer is refused",
        examples=[5.0],
    ),
]


def choose_answer(
    request: Request,
    answer_format: AnswerFormat | None,
    *,
    classes: Sequence[str] | None,
    alpha: float,
    known: Sequence[str],
) -> AnswerOptions:
    """Return the answer that the parameters and headers ask for; `known` are the class names.

    Raises NotAcceptable and InvalidParameter.
    """
    accept = join_header(request, "accept")
    answer_format = answer_format or negotiate(accept)
    kept = None if classes is None else choose_classes(classes, known)
    if kept is not None and answer_format is AnswerFormat.CONFIDENCE:
        raise InvalidParameter(
            "query.classes cannot be combined with format=confidence.",
            remedy="Omit classes, or choose another format.",
        )
    return AnswerOptions(
        format=answer_format,
        media_type=choose_media_type(answer_format, accept),
        accepts_gzip=accepts_gzip(join_header(request, "accept-encoding")),
        alpha=alpha,
        kept=kept,
    )


def choose_classes(wanted: Sequence[str], known: Sequence[str]) -> tuple[int, ...]:
    """Return the indices of the wanted classes, given as names or indices separated by commas.

    Raises InvalidParameter for an unknown class.
    """
    indices = {name: index for index, name in enumerate(known)}
    indices |= {str(index): index for index in range(len(known)) if str(index) not in indices}
    names = [name.strip() for text in wanted for name in text.split(",")]
    for name in names:
        if name not in indices:
            raise InvalidParameter(
                f"query.classes: there is no class {name[:50]!r}.",
                remedy=f"The classes are {', '.join(known)[:1000]}.",
            )
    return tuple(sorted({indices[name] for name in names}))


def choose_scaling(requested: int | None, served: Scaling) -> Scaling:
    """Scale to the requested side, if there is one, but keep within the operator's limit."""
    if requested is None:
        return served
    if not served.max_side:  # the operator sets no limit
        return scale_to(requested)
    return scale_to(min(requested, served.largest_side))
