"""What a problem is, and those of images: see `app.errors` for the whole tree.

Imports no HTTP library, for decoders in processes of their own raise them.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from fastapi import Response


class Problem(Exception):
    """`detail` names the value and the limit, `remedy` says what the caller can do."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    name: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        remedy: str,
        reason: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`reason`: for metrics and logs, where the name does not say enough."""
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.reason = reason or self.name
        self.headers = dict(headers or {})

    def response(self) -> "Response":
        from app.errors import problem_response  # a decoder's process needs no HTTP

        return problem_response(
            status=self.status,
            name=self.name,
            title=self.title,
            detail=self.detail,
            remedy=self.remedy,
            headers=self.headers,
        )


class BrokenImage(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    name = "broken-image"
    title = "The image cannot be decoded"


class TooCostly(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    name = "too-costly"
    title = "The image takes too long or too much memory to decode"


class UnsupportedType(Problem):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    name = "unsupported-type"
    title = "Not an image of a supported format"


class TooManyPixels(Problem):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    name = "too-many-pixels"
    title = "The image has too many pixels"
