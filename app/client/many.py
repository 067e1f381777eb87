"""Segments many photos in few requests, each with as many photos as the server accepts.

Like `app.client.calls`, it knows nothing of sockets, threads or event loops.
"""

from base64 import b64decode
from collections.abc import Iterable, Sequence

import httpx

from app.client.errors import ClientError, PhotoError, ProblemError
from app.client.exchange import (
    Call,
    Request,
    Session,
    Wait,
    choose_parameters,
    exchange,
    make_invalid,
    parse,
)
from app.client.photos import Photo, read_photo
from app.client.retries import RETRIED_STATUSES
from app.client.segmentation import Segmentation
from app.client.served import find_limits, find_names
from app.file_schemas import FileAnswer, FileProblem, FileResults
from app.formats import AnswerFormat

PART_BYTES = 300
"""The largest number of bytes that a form adds to each file."""

TOO_LARGE = 413

Results = dict[int, Segmentation | ClientError]
"""The result or the error of each photo, by its position."""


def segment_many(
    session: Session,
    photos: Iterable[Photo],
    *,
    max_side: int | None = None,
    classes: Sequence[str] | None = None,
) -> Call[list[Segmentation | ClientError]]:
    """Segment photos; return the result or the error of each, in their order.

    Raises ClientError for an error that affects all of them, such as a server that does not answer.
    """
    limits = yield from find_limits(session)
    parameters = choose_parameters(AnswerFormat.PNG, max_side=max_side, classes=classes)
    results: Results = {}
    group: dict[int, bytes] = {}
    size_bytes = 0
    for place, photo in enumerate(photos):
        try:
            content = read_photo(photo)
        except PhotoError as error:
            results[place] = error
            continue
        is_full = size_bytes + len(content) + PART_BYTES > limits.max_body_bytes - PART_BYTES
        if group and (is_full or len(group) == limits.max_files):
            yield from _segment_group(session, group, results, parameters)
            group, size_bytes = {}, 0
        group[place] = content
        size_bytes += len(content) + PART_BYTES
    if group:
        yield from _segment_group(session, group, results, parameters)
    return [results[place] for place in sorted(results)]


def _segment_group(
    session: Session, group: dict[int, bytes], results: Results, parameters: dict[str, str]
) -> Call[None]:
    """Fill in the results of these photos; send those again that the server could not accept."""
    attempt, waited_s = 1, 0.0
    while group:
        refused = yield from _send(session, group, results, parameters)
        wait_s = session.retries.choose_wait(
            attempt,
            waited_s=waited_s,
            retry_after_s=max(refused.values(), default=None),
        )
        if wait_s is None or not refused:
            return
        yield Wait(wait_s)
        attempt, waited_s = attempt + 1, waited_s + wait_s
        group = {place: group[place] for place in refused}


def _send(
    session: Session, group: dict[int, bytes], results: Results, parameters: dict[str, str]
) -> Call[dict[int, float]]:
    """Fill in the results; return the photos to send again, with the seconds to wait."""
    try:
        response = yield from exchange(session, _make_request(session, group, parameters))
    except ProblemError as error:
        if error.status != TOO_LARGE or len(group) > 1:
            raise
        results.update(dict.fromkeys(group, error))
        return {}
    entries = parse(response, FileResults).root
    if len(entries) != len(group):
        raise make_invalid(response, f"{len(group)} results")
    digest = response.headers.get("X-Weights-Digest", "")
    names = yield from find_names(session, digest)
    request_id = response.headers.get("X-Request-ID", "")
    refused = {}
    for (place, photo), entry in zip(group.items(), entries, strict=True):
        if isinstance(entry, FileAnswer):
            results[place] = Segmentation(
                photo=photo,
                png=b64decode(str(entry.answer)),
                names=names,
                weights=digest,
                request_id=request_id,
                timings_ms=entry.timings_ms,
            )
        else:
            results[place] = _make_error(entry, request_id)
            if entry.status in RETRIED_STATUSES:
                refused[place] = float(entry.retry_after_s or 0)
    return refused


def _make_request(session: Session, group: dict[int, bytes], parameters: dict[str, str]) -> Request:
    content_type, content = _encode_form(group.values())
    return Request(
        method="POST",
        path="v1/segment/batch",
        parameters=parameters,
        headers={
            "Accept": "application/json",
            "Content-Type": content_type,
            "X-Request-Timeout": f"{session.timeout_s:g}",
        },
        content=content,
    )


def _make_error(entry: FileProblem, request_id: str) -> ProblemError:
    return ProblemError(entry.problem, request_id=request_id, retry_after_s=entry.retry_after_s)


def _encode_form(files: Iterable[bytes]) -> tuple[str, bytes]:
    """Return the media type and the bytes of a form; its files are named by their numbers."""
    parts = [("files", (str(number), data)) for number, data in enumerate(files, 1)]
    form = httpx.Request("POST", "http://server", files=parts)
    return form.headers["Content-Type"], form.read()
