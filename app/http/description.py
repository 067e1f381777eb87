"""The OpenAPI description of errors and of binary bodies.

Knows nothing of routes; each route lists the errors that it answers with.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from app import errors
from app.errors import RequestError
from app.http.problems import (
    BUG_DETAIL,
    BUG_REMEDY,
    INTERNAL,
    MEDIA_TYPE,
    PROBLEMS,
    Problem,
    make_body,
)

BINARY = {"type": "string", "format": "binary"}

ANSWER_HEADERS = {
    "X-Request-ID": {"schema": {"type": "string"}, "description": "Names the request in the log"},
    "X-Weights-Digest": {
        "schema": {"type": "string"},
        "description": "SHA-256 of the weights that computed the answer",
    },
    "X-Mask-Shape": {
        "schema": {"type": "string"},
        "description": "Height and width of the mask, e.g. 300,451",
    },
    "Server-Timing": {
        "schema": {"type": "string"},
        "description": "Milliseconds of each stage, e.g. decode;dur=2.1, inference;dur=41.3",
    },
}

EVERYWHERE = (
    errors.BadRequest,
    errors.RequestTimeout,
    errors.HeadTooLarge,
    errors.Unimplemented,
    errors.NotReady,
    errors.TooManyConnections,
)
"""The errors that any request may get: most of them arise before its path is known."""

LIMITED = (*EVERYWHERE, errors.Unauthorized, errors.TooManyRequests)
"""The errors that any request may get if keys and rate limits apply to its path."""

EXAMPLES: Mapping[type[RequestError], tuple[str, str]] = {
    errors.BadRequest: (
        "The bytes cannot be read as HTTP/1.1: Invalid method encountered.",
        "Send a request that follows RFC 9112.",
    ),
    errors.PreflightRefused: (
        "Disallowed CORS origin.",
        "The operator names the allowed origins in SEG_CORS_ORIGINS.",
    ),
    errors.ImageMissing: (
        "The request has no body.",
        "Send the image as the body, or as the multipart field 'file'.",
    ),
    errors.Unauthorized: (
        "The request has no API key.",
        "Send the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
    ),
    errors.Forbidden: (
        "The key of anna lacks the role admin.",
        "Use an admin's key: python -m app.keys NAME --admin",
    ),
    errors.BrokenImage: (
        "The image ends within its header.",
        "Check that the file opens elsewhere and was sent whole.",
    ),
    errors.TooCostly: (
        "The image takes too long to decode for its number of pixels.",
        "Save it again, as a baseline JPEG or as PNG, or scale it down.",
    ),
    errors.UnsupportedType: (
        "The 5 bytes are not an image of a supported format.",
        "Send JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame).",
    ),
    errors.BodyTooLarge: (
        "The request declares 40000000 bytes, the limit is 33554432.",
        "Send a smaller file: scale the image down or compress it more.",
    ),
    errors.TooManyPixels: (
        "The image has 10000 x 8000 = 80000000 pixels, the limit is 25000000.",
        "Scale the image down before sending it.",
    ),
    errors.NotAcceptable: (
        "Accept: text/html allows none of image/png, application/json.",
        "Accept one of image/png, application/json, or choose with ?format=.",
    ),
    errors.InvalidParameter: (
        "query.max_side is '3': Input should be greater than or equal to 32.",
        "See /docs for the allowed values.",
    ),
    errors.RequestTimeout: (
        "The body did not arrive within 30 s.",
        "Send a smaller image, or use a faster connection.",
    ),
    errors.ReloadFailed: (
        "The weights do not work.",
        "Correct the weights file; the server still uses the old weights.",
    ),
    errors.InvalidTensor: (
        "The inference request is invalid: there must be one input.",
        "See /v2/models/fcn_resnet18 for the tensors.",
    ),
    errors.HeadTooLarge: (
        "The request's head has more than 65536 bytes.",
        "Send fewer or shorter header fields.",
    ),
    errors.TooManyRequests: (
        "The limit for one caller is 60 requests in 60 s.",
        "Try again in 12 s. The RateLimit header says how many requests are left.",
    ),
    errors.Unimplemented: (
        "This server is not a proxy.",
        "Use another method.",
    ),
    errors.NotReady: ("The server is loading.", "Try again when /health/ready answers 200."),
    errors.TooManyConnections: (
        "All 1024 connections are taken.",
        "Try again in 1 s.",
    ),
    errors.Overloaded: ("All 64 places in the queue are taken.", "Try again in 2 s."),
    errors.InferenceFailed: (
        "The engine failed on this image.",
        "Try again. If the error persists, report the X-Request-ID of this answer.",
    ),
}
"""An example of the detail and the remedy of each error."""


def describe_problems(types: Iterable[type[RequestError]]) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's responses for these errors and for an unexpected exception.

    Problems with the same status share a response, which has an example of each.
    """
    return {
        int(status): {
            "description": "; ".join(problem.title for problem in problems),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemDetails"},
                    "examples": {
                        problem.name: {"$ref": f"#/components/examples/{problem.name}"}
                        for problem in problems
                    },
                }
            },
        }
        for status, problems in _group_by_status(PROBLEMS[error] for error in types).items()
    }


def describe_protocol_errors() -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's responses for errors under /v2, which are {"error": ...}."""
    detail, remedy = EXAMPLES[errors.InvalidTensor]
    return {
        int(status): {
            "description": "; ".join(problem.title for problem in problems),
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ProtocolError"},
                    "example": {"error": f"{detail} {remedy}"},
                }
            },
        }
        for status, problems in _group_by_status(PROBLEMS.values()).items()
    }


def _group_by_status(problems: Iterable[Problem]) -> dict[HTTPStatus, list[Problem]]:
    """Return the problems and INTERNAL by status, in its order; each name occurs only once."""
    groups: dict[HTTPStatus, list[Problem]] = {}
    for problem in {problem.name: problem for problem in (*problems, INTERNAL)}.values():
        groups.setdefault(problem.status, []).append(problem)
    return dict(sorted(groups.items()))


def list_examples() -> dict[str, dict[str, Any]]:
    """Return the examples that `describe_problems` refers to, by name."""
    texts = {PROBLEMS[error]: text for error, text in EXAMPLES.items()} | {
        INTERNAL: (BUG_DETAIL, BUG_REMEDY)
    }
    return {
        problem.name: {
            "summary": problem.title,
            "value": make_body(problem, detail=detail, remedy=remedy),
        }
        for problem, (detail, remedy) in texts.items()
    }
