"""Every error that a caller can meet, as RFC 9457 problem details.

    Problem
      BadRequest            400  bytes that are no HTTP/1.1 request
      PreflightRefused      400  a page's origin, method or header that is not allowed
      ImageMissing          400  no image in the request
      Unauthorized          401  no API key, or none that the server knows
      Forbidden             403  the caller's key lacks the role
      BrokenImage           422  an image of a supported format that cannot be decoded
      TooCostly             422  an image that takes too long, or too much memory, to decode
      UnsupportedType       415  a body that is no image of a supported format
      BodyTooLarge          413  more bytes than the limit, declared or counted
      TooManyPixels         413  width x height above the limit
      NotAcceptable         406  no answer format that the caller accepts
      InvalidParameter      422  a query parameter out of its bounds
      ReloadFailed          409  new weights that do not work; the old ones serve on
      RequestTimeout        408  a head or a body that does not come in time
      HeadTooLarge          431  more bytes of header fields than the limit
      TooManyRequests       429  more requests of one caller than the rate limit
      Unimplemented         501  a part of HTTP that the server does not have
      NotReady              503  starting, or shutting down
      TooManyConnections    503  more connections than the limit
      Overloaded            503  the queue is full, or the deadline cannot be met
      InferenceFailed       500  the engine raised; the caller is not to blame

Knows nothing of images or engines: who finds an error raises one of these.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.methods import with_head
from app.problems import BrokenImage as BrokenImage
from app.problems import Problem as Problem
from app.problems import TooCostly as TooCostly
from app.problems import TooManyPixels as TooManyPixels
from app.problems import UnsupportedType as UnsupportedType

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:segmentation:problem:"


class BadRequest(Problem):
    status = HTTPStatus.BAD_REQUEST
    name = "bad-request"
    title = "Not an HTTP request"


class PreflightRefused(Problem):
    status = HTTPStatus.BAD_REQUEST
    name = "preflight-refused"
    title = "The page may not send this request"


class ImageMissing(Problem):
    status = HTTPStatus.BAD_REQUEST
    name = "image-missing"
    title = "No image in the request"


class Unauthorized(Problem):
    status = HTTPStatus.UNAUTHORIZED
    name = "unauthorized"
    title = "A valid API key is needed"


class Forbidden(Problem):
    status = HTTPStatus.FORBIDDEN
    name = "forbidden"
    title = "The caller may not do this"


class BodyTooLarge(Problem):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    name = "body-too-large"
    title = "The request has too many bytes"


class NotAcceptable(Problem):
    status = HTTPStatus.NOT_ACCEPTABLE
    name = "not-acceptable"
    title = "No acceptable answer format"


class InvalidParameter(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    name = "invalid-parameter"
    title = "A query parameter is out of its bounds"


class ReloadFailed(Problem):
    status = HTTPStatus.CONFLICT
    name = "reload-failed"
    title = "The new weights do not work"


class RequestTimeout(Problem):
    status = HTTPStatus.REQUEST_TIMEOUT
    name = "request-timeout"
    title = "The request did not come in time"


class HeadTooLarge(Problem):
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    name = "head-too-large"
    title = "The request's head has too many bytes"


class TooManyRequests(Problem):
    status = HTTPStatus.TOO_MANY_REQUESTS
    name = "too-many-requests"
    title = "The caller sends more requests than the rate limit"


class Unimplemented(Problem):
    status = HTTPStatus.NOT_IMPLEMENTED
    name = "not-implemented"
    title = "The server does not have this part of HTTP"


class NotReady(Problem):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    name = "not-ready"
    title = "The server is starting or shutting down"


class TooManyConnections(Problem):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    name = "too-many-connections"
    title = "The server has too many connections"


class Overloaded(Problem):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    name = "overloaded"
    title = "The server cannot answer in time"


class InferenceFailed(Problem):
    name = "inference-failed"
    title = "The engine failed on this image"


PROBLEMS = (
    BadRequest,
    PreflightRefused,
    ImageMissing,
    Unauthorized,
    Forbidden,
    BrokenImage,
    TooCostly,
    UnsupportedType,
    BodyTooLarge,
    TooManyPixels,
    NotAcceptable,
    InvalidParameter,
    RequestTimeout,
    ReloadFailed,
    HeadTooLarge,
    TooManyRequests,
    Unimplemented,
    NotReady,
    TooManyConnections,
    Overloaded,
    InferenceFailed,
)


def described(problems: Iterable[type[Problem]]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses, one for each status; problems that share one share its description."""
    titles: dict[int, list[str]] = {}
    for problem in problems:
        titles.setdefault(int(problem.status), []).append(problem.title)
    return {
        status: {
            "description": "; ".join(lines),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for status, lines in titles.items()
    }


def problem_response(
    *,
    status: int,
    name: str,
    title: str,
    detail: str,
    remedy: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The body has RFC 9457's members and `remedy`."""
    body = {
        "type": TYPE_PREFIX + name,
        "title": title,
        "status": status,
        "detail": detail,
        "remedy": remedy,
    }
    return Response(
        orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def internal_error_response() -> Response:
    """For what nobody expected; the exception's text stays in the log."""
    return problem_response(
        status=Problem.status,
        name=Problem.name,
        title=Problem.title,
        detail="The server made a mistake; its log has the details under this request id.",
        remedy="Try again; if it stays, report the X-Request-ID of this answer.",
    )


def add_handlers(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


def answer_to(problem: Problem, scope: Scope) -> Response:
    """The answer, and in the scope what metrics and logs call it."""
    scope["problem"] = problem.reason
    return problem.response()


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer_to(error, request.scope)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return await _on_problem(
        request,
        InvalidParameter(f"{where}: {first['msg']}", remedy="See /docs for the allowed values."),
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown path, a wrong method. Their headers are kept."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    request.scope["problem"] = status.phrase.lower().replace(" ", "-")
    return problem_response(
        status=status,
        name=request.scope["problem"],
        title=status.phrase,
        detail=f"{request.method} {request.url.path[:200]}: {error.detail}",
        remedy="See /docs for the endpoints and their methods.",
        headers=with_head(error.headers),
    )
