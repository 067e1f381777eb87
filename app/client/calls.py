"""The calls of `Client` and `AsyncClient`, each written once: its requests and its result.

A call is a generator. It yields a `Request` or a `Wait`, and the client sends the outcome back. So
a call knows nothing of sockets, threads or event loops.
"""

import io
from collections.abc import Sequence

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.client.exchange import (
    Call,
    Request,
    Session,
    choose_parameters,
    exchange,
    make_invalid,
    parse,
    parse_timings,
)
from app.client.many import segment_many
from app.client.photos import Photo, read_photo
from app.client.segmentation import Segmentation
from app.client.served import find_names, model
from app.formats import ALPHA, JPEG, JSON, PNG, AnswerFormat
from app.schemas import Polygons, Reloaded, RunLengths
from app.schemas import Segmentation as MaskAsJson

__all__ = [
    "is_ready",
    "model",
    "reload",
    "segment",
    "segment_array",
    "segment_confidence",
    "segment_json",
    "segment_many",
    "segment_overlay",
    "segment_polygons",
    "segment_rle",
]


def segment(
    session: Session,
    photo: Photo,
    *,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
) -> Call[Segmentation]:
    """Segment one photo: a path, the bytes of a file, a Pillow image or a NumPy array.

    `max_side` scales a larger photo down to this side before the network; `classes` are the names
    of the classes to keep. Raises ClientError.
    """
    content = read_photo(photo)
    response = yield from _ask(
        session, content, AnswerFormat.PNG, max_side=max_side, classes=classes
    )
    digest = response.headers.get("X-Weights-Digest", "")
    if not digest:
        raise make_invalid(response, "a mask")
    return Segmentation(
        photo=content,
        png=response.content,
        names=(yield from find_names(session, digest)),
        weights=digest,
        request_id=response.headers.get("X-Request-ID", ""),
        timings_ms=dict(parse_timings(response.headers.get("Server-Timing", ""))),
    )


def segment_array(
    session: Session,
    photo: Photo,
    *,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
) -> Call[NDArray[np.uint8]]:
    """Return the class indices only, uint8 of shape (height, width). Raises ClientError."""
    response = yield from _ask(
        session, read_photo(photo), AnswerFormat.NPY, max_side=max_side, classes=classes
    )
    mask: NDArray[np.uint8] = np.load(io.BytesIO(response.content), allow_pickle=False)
    return mask


def segment_json(
    session: Session,
    photo: Photo,
    *,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
) -> Call[MaskAsJson]:
    """Return the mask as lists, with the classes in it. Raises ClientError."""
    response = yield from _ask(
        session, read_photo(photo), AnswerFormat.JSON, max_side=max_side, classes=classes
    )
    return parse(response, MaskAsJson)


def segment_rle(
    session: Session,
    photo: Photo,
    *,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
) -> Call[RunLengths]:
    """Return each class in COCO's run-length encoding, for pycocotools. Raises ClientError."""
    response = yield from _ask(
        session, read_photo(photo), AnswerFormat.RLE, max_side=max_side, classes=classes
    )
    return parse(response, RunLengths)


def segment_polygons(
    session: Session,
    photo: Photo,
    *,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
) -> Call[Polygons]:
    """Return each class as polygons along the edges of its pixels. Raises ClientError."""
    response = yield from _ask(
        session, read_photo(photo), AnswerFormat.POLYGONS, max_side=max_side, classes=classes
    )
    return parse(response, Polygons)


def segment_confidence(
    session: Session, photo: Photo, *, max_side: int | None = None
) -> Call[NDArray[np.uint8]]:
    """Return the softmax of each pixel's class times 255, uint8 of shape (height, width).

    Raises ClientError.
    """
    response = yield from _ask(
        session, read_photo(photo), AnswerFormat.CONFIDENCE, max_side=max_side
    )
    return np.asarray(Image.open(io.BytesIO(response.content)))


def segment_overlay(
    session: Session,
    photo: Photo,
    *,
    alpha: float = ALPHA,
    jpeg: bool = False,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
) -> Call[Image.Image]:
    """Return the photo with the classes' colours over it, drawn by the server.

    `alpha` is the opacity of the colours, 0 to 1. With `jpeg`, the answer is smaller, and not
    exact. Raises ClientError.
    """
    response = yield from _ask(
        session,
        read_photo(photo),
        AnswerFormat.OVERLAY,
        media_type=JPEG if jpeg else PNG,
        max_side=max_side,
        classes=classes,
        alpha=alpha,
    )
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


def _ask(
    session: Session,
    content: bytes,
    answer: AnswerFormat,
    *,
    media_type: str | None = None,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
    alpha: float | None = None,
) -> Call[httpx.Response]:
    """Return the server's answer to one photo. Raises ClientError, also for another media type."""
    media_type = media_type or answer.media_types[0]
    parameters = choose_parameters(answer, max_side=max_side, classes=classes, alpha=alpha)
    request = Request(
        method="POST",
        path="v1/segment",
        parameters=parameters,
        headers={
            "Accept": media_type,
            "Content-Type": "application/octet-stream",
            "X-Request-Timeout": f"{session.timeout_s:g}",
        },
        content=content,
    )
    response = yield from exchange(session, request)
    if response.headers.get("Content-Type") != media_type:
        raise make_invalid(response, "the object" if media_type == JSON else "a mask")
    return response


def is_ready(_: Session) -> Call[bool]:
    """Return whether the server accepts requests now; False if no server answers.

    A server with a separate port for operations answers this only there.
    """
    outcome = yield Request(method="GET", path="health/ready")
    return isinstance(outcome, httpx.Response) and outcome.status_code == httpx.codes.OK


def reload(session: Session) -> Call[Reloaded]:
    """Make the server load its weights file again; needs an admin's key. Raises ClientError."""
    response = yield from exchange(session, Request(method="POST", path="v1/admin/reload"))
    return parse(response, Reloaded)
