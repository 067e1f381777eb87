"""Problem details (RFC 9457): the status, type, title and headers of every error.

Under /v2, errors are {"error": ...}, as the Open Inference Protocol requires. This is the only
module that maps the exceptions of `app.errors` to responses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from app import errors
from app.errors import RequestError
from app.http.methods import add_head
from app.http.paths import is_of_protocol

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:segmentation:problem:"
CHALLENGE = 'Bearer realm="segmentation"'


@dataclass(frozen=True, slots=True)
class Problem:
    """The part of a response that is the same for all errors of one type."""

    status: HTTPStatus
    name: str
    """The last part of the problem's `type`."""
    title: str
    challenge: str = ""
    """The value of the WWW-Authenticate header (RFC 6750, section 3)."""


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
    errors.InvalidTensor: Problem(
        HTTPStatus.BAD_REQUEST, "invalid-tensor", "The inference request is invalid"
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
BUG_DETAIL = "The server failed unexpectedly; its log has the details under this request id."
BUG_REMEDY = "Try again. If the error persists, report the X-Request-ID of this answer."


def create_response(error: RequestError, path: str = "") -> Response:
    """Return the response to an error, in the format of the path that was requested."""
    problem = PROBLEMS[type(error)]
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if problem.challenge:
        headers["WWW-Authenticate"] = problem.challenge
    return _respond(problem, detail=error.detail, remedy=error.remedy, headers=headers, path=path)


def find_reason(error: RequestError) -> str:
    """Return the reason that metrics and logs show for an error."""
    return error.reason or PROBLEMS[type(error)].name


def answer_error(error: RequestError, scope: Scope) -> Response:
    """Return the response to an error, and put its reason into the scope for metrics and logs."""
    scope["problem"] = find_reason(error)
    return create_response(error, scope["path"])


def describe_error(error: RequestError) -> dict[str, str | int]:
    """Return the problem detail of an error."""
    return make_body(PROBLEMS[type(error)], detail=error.detail, remedy=error.remedy)


def describe_bug() -> dict[str, str | int]:
    """Return the problem detail of an unexpected exception."""
    return make_body(INTERNAL, detail=BUG_DETAIL, remedy=BUG_REMEDY)


def answer_bug(path: str = "") -> Response:
    """Return the response to an unexpected exception; its text is only logged."""
    return _respond(INTERNAL, detail=BUG_DETAIL, remedy=BUG_REMEDY, path=path)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the application with a problem detail."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return answer_error(error, request.scope)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The rest of `loc` names the types in FastAPI's own union.
    where = ".".join(str(part) for part in first["loc"][:2])
    value = f" is {first['input'][:50]!r}" if isinstance(first["input"], str) else ""
    return await _on_request_error(
        request,
        errors.InvalidParameter(
            f"{where}{value}: {first['msg']}.", remedy="See /docs for the allowed values."
        ),
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Answer Starlette's own errors, such as an unknown path, and keep their headers."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    name = request.scope["problem"] = status.phrase.lower().replace(" ", "-")
    return _respond(
        Problem(status, name, status.phrase),
        detail=f"{request.method} {request.url.path[:200]}: {error.detail}",
        remedy="See /docs for the endpoints and their methods.",
        headers=add_head(error.headers),
        path=request.url.path,
    )


def _respond(
    problem: Problem,
    *,
    detail: str,
    remedy: str,
    headers: Mapping[str, str] | None = None,
    path: str = "",
) -> Response:
    is_problem = not is_of_protocol(path)
    body = (
        make_body(problem, detail=detail, remedy=remedy)
        if is_problem
        else {"error": f"{detail} {remedy}"}
    )
    return Response(
        orjson.dumps(body),
        status_code=problem.status,
        media_type=MEDIA_TYPE if is_problem else "application/json",
        headers=dict(headers or {}),
    )


def make_body(problem: Problem, *, detail: str, remedy: str) -> dict[str, str | int]:
    """Return the members of a problem detail (RFC 9457), and `remedy`."""
    return {
        "type": TYPE_PREFIX + problem.name,
        "title": problem.title,
        "status": int(problem.status),
        "detail": detail,
        "remedy": remedy,
    }
