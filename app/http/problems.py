"""Every error as an RFC 9457 problem detail: its status, its type, its title and its headers.

The only place that knows which answer an exception of `app.errors` becomes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app import errors
from app.errors import RequestError
from app.http.methods import with_head

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:segmentation:problem:"
CHALLENGE = 'Bearer realm="segmentation"'


@dataclass(frozen=True, slots=True)
class Problem:
    """What all errors of one type have in common in their answers."""

    status: HTTPStatus
    name: str
    """The end of the problem's `type`."""
    title: str
    challenge: str = ""
    """The WWW-Authenticate field (RFC 6750, section 3)."""


PROBLEMS: Mapping[type[RequestError], Problem] = {
    errors.BadRequest: Problem(HTTPStatus.BAD_REQUEST, "bad-request", "Not an HTTP request"),
    errors.PreflightRefused: Problem(
        HTTPStatus.BAD_REQUEST, "preflight-refused", "The page may not send this request"
    ),
    errors.ImageMissing: Problem(
        HTTPStatus.BAD_REQUEST, "image-missing", "No image in the request"
    ),
    errors.Unauthorized: Problem(
        HTTPStatus.UNAUTHORIZED, "unauthorized", "A valid API key is needed", CHALLENGE
    ),
    errors.UnknownKey: Problem(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        "A valid API key is needed",
        CHALLENGE + ', error="invalid_token"',
    ),
    errors.Forbidden: Problem(HTTPStatus.FORBIDDEN, "forbidden", "The caller may not do this"),
    errors.BrokenImage: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY, "broken-image", "The image cannot be decoded"
    ),
    errors.TooCostly: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "too-costly",
        "The image takes too long or too much memory to decode",
    ),
    errors.UnsupportedType: Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "unsupported-type",
        "Not an image of a supported format",
    ),
    errors.BodyTooLarge: Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", "The request has too many bytes"
    ),
    errors.TooManyPixels: Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-many-pixels", "The image has too many pixels"
    ),
    errors.NotAcceptable: Problem(
        HTTPStatus.NOT_ACCEPTABLE, "not-acceptable", "No acceptable answer format"
    ),
    errors.InvalidParameter: Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-parameter",
        "A query parameter is out of its bounds",
    ),
    errors.RequestTimeout: Problem(
        HTTPStatus.REQUEST_TIMEOUT, "request-timeout", "The request did not come in time"
    ),
    errors.ReloadFailed: Problem(
        HTTPStatus.CONFLICT, "reload-failed", "The new weights do not work"
    ),
    errors.HeadTooLarge: Problem(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "head-too-large",
        "The request's head has too many bytes",
    ),
    errors.TooManyRequests: Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        "too-many-requests",
        "The caller sends more requests than the rate limit",
    ),
    errors.Unimplemented: Problem(
        HTTPStatus.NOT_IMPLEMENTED,
        "not-implemented",
        "The server does not have this part of HTTP",
    ),
    errors.NotReady: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", "The server is starting or shutting down"
    ),
    errors.TooManyConnections: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "too-many-connections",
        "The server has too many connections",
    ),
    errors.Overloaded: Problem(
        HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "The server cannot answer in time"
    ),
    errors.InferenceFailed: Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "inference-failed", "The engine failed on this image"
    ),
}

INTERNAL = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "Internal error")


def create_response(error: RequestError) -> Response:
    """The answer that an error becomes."""
    problem = PROBLEMS[type(error)]
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if problem.challenge:
        headers["WWW-Authenticate"] = problem.challenge
    return _respond(problem, detail=error.detail, remedy=error.remedy, headers=headers)


def find_reason(error: RequestError) -> str:
    """What metrics and logs call the error."""
    return error.reason or PROBLEMS[type(error)].name


def answer_error(error: RequestError, scope: Scope) -> Response:
    """The answer that an error becomes; its reason goes into the scope, for metrics and logs."""
    scope["problem"] = find_reason(error)
    return create_response(error)


def answer_bug() -> Response:
    """The answer to an exception that nobody expected; its text stays in the log."""
    return _respond(
        INTERNAL,
        detail="The server made a mistake; its log has the details under this request id.",
        remedy="Try again; if it stays, report the X-Request-ID of this answer.",
    )


def describe_problems(types: Iterable[type[RequestError]]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses, one for each status; problems that share one share its description."""
    titles: dict[int, list[str]] = {}
    for problem in (PROBLEMS[error] for error in types):
        lines = titles.setdefault(int(problem.status), [])
        if problem.title not in lines:
            lines.append(problem.title)
    return {
        status: {
            "description": "; ".join(lines),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
        for status, lines in titles.items()
    }


def add_handlers(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return answer_error(error, request.scope)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return await _on_request_error(
        request,
        errors.InvalidParameter(
            f"{where}: {first['msg']}", remedy="See /docs for the allowed values."
        ),
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors: an unknown path, a wrong method. Their headers are kept."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    name = request.scope["problem"] = status.phrase.lower().replace(" ", "-")
    return _respond(
        Problem(status, name, status.phrase),
        detail=f"{request.method} {request.url.path[:200]}: {error.detail}",
        remedy="See /docs for the endpoints and their methods.",
        headers=with_head(error.headers),
    )


def _respond(
    problem: Problem, *, detail: str, remedy: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The body has RFC 9457's members and `remedy`."""
    body = {
        "type": TYPE_PREFIX + problem.name,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "remedy": remedy,
    }
    return Response(
        orjson.dumps(body),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )
