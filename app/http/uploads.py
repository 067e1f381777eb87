"""Uploads: reads the image's bytes from a request, which is a multipart form or a raw body.

Also cancels work whose client disconnects. Does not look at the bytes.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import ImageMissing, InvalidTensor, RequestTimeout, UnsupportedType
from app.formats import SUPPORTED
from app.http.forms import File, FormError, read_file, read_files
from app.http.paths import MODEL_PATH

FIELD = "file"
FILES_FIELD = "files"

RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""The media types of a raw body besides image/...: curl sends the last one with --data-binary."""

JSON_TYPE = "application/json"
"""The media type of a JSON body that has the image in base64."""

T = TypeVar("T")


async def read_upload(request: Request, due: float) -> bytes:
    """Return the bytes of the upload, at least one.

    `due` is a reading of `time.perf_counter`. Raises RequestTimeout if the body has not arrived by
    then, and ImageMissing, UnsupportedType and ClientDisconnect.
    """
    return await _read_until(due, _read_image(request))


async def read_tensors(request: Request, due: float) -> bytes:
    """Return the body of a request of the Open Inference Protocol, at least one byte.

    Raises RequestTimeout, UnsupportedType, InvalidTensor and ClientDisconnect.
    """
    _require_no_coding(request)
    if (content_type := read_content_type(request)) not in (*RAW_TYPES, JSON_TYPE):
        raise UnsupportedType(
            f"Content-Type {content_type[:100]!r} is not an inference request.",
            remedy=f"Send {JSON_TYPE}, or application/octet-stream with binary data.",
        )
    if not (data := await _read_until(due, _read_body(request))):
        raise InvalidTensor(
            "The request has no body.", remedy=f"Send the tensors; {MODEL_PATH} describes them."
        )
    return data


async def read_uploads(request: Request, due: float, *, max_files: int) -> list[File]:
    """Return the files of a form, at least one. A file may be empty, and need not be an image.

    Raises what `read_upload` raises.
    """
    return await _read_until(due, _read_files(request, max_files))


async def _read_until(due: float, reading: Coroutine[Any, Any, T]) -> T:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(due - started):
            return await reading
    except TimeoutError as error:
        raise RequestTimeout(
            f"The body did not arrive within {time.perf_counter() - started:.2g} s.",
            remedy="Send a smaller image, or use a faster connection.",
        ) from error


def _require_no_coding(request: Request) -> None:
    # Decompressing would let a small request become a large one before any limit sees it.
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedType(
            f"Content-Encoding {coding[:100]!r} is not supported.",
            remedy="Send the body without compression; image files are compressed already.",
        )


def read_content_type(request: Request) -> str:
    """Return the media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read_image(request: Request) -> bytes:
    _require_no_coding(request)
    content_type = read_content_type(request)
    if content_type == "multipart/form-data":
        return await _read_form(request)
    if content_type in (*RAW_TYPES, JSON_TYPE) or content_type.startswith("image/"):
        if not (data := await _read_body(request)):
            raise ImageMissing(
                "The request has no body.",
                remedy=f"Send the image as the body, or as the multipart field {FIELD!r}.",
            )
        return data
    raise UnsupportedType(
        f"Content-Type {content_type[:100]!r} is not an image.",
        remedy=f"Send {SUPPORTED}, as image/..., multipart/form-data or base64 in JSON.",
    )


async def _read_body(request: Request) -> bytes:
    # `body()` would keep the bytes until the request ends.
    return b"".join([chunk async for chunk in request.stream()])


async def _read_files(request: Request, max_files: int) -> list[File]:
    _require_no_coding(request)
    remedy = f"Send up to {max_files} files in the field {FILES_FIELD!r} of a multipart form."
    if (content_type := read_content_type(request)) != "multipart/form-data":
        raise UnsupportedType(
            f"Content-Type {content_type[:100]!r} is not multipart/form-data.", remedy=remedy
        )
    try:
        files, names = await read_files(
            request.headers["content-type"],
            request.stream(),
            name=FILES_FIELD,
            max_files=max_files,
        )
    except FormError as error:
        raise ImageMissing(f"The multipart form cannot be read: {error}.", remedy=remedy) from error
    if not files:
        raise _make_no_file(FILES_FIELD, names)
    return files


async def _read_form(request: Request) -> bytes:
    try:
        data, names = await read_file(request.headers["content-type"], request.stream(), name=FIELD)
    except FormError as error:
        raise ImageMissing(
            f"The multipart form cannot be read: {error}.",
            remedy=f"Send one file in the field {FIELD!r}, as curl -F {FIELD}=@photo.jpg does; "
            "/v1/segment/batch takes several.",
        ) from error
    if data:
        return data
    if data is not None:
        raise ImageMissing(
            f"The multipart field {FIELD!r} is empty.", remedy="Put an image into it."
        )
    raise _make_no_file(FIELD, names)


def _make_no_file(field: str, names: Sequence[str]) -> ImageMissing:
    if field in names:
        return ImageMissing(
            f"The multipart field {field!r} is text, not a file.",
            remedy=f"Send it with a file name; with curl, write @, as in -F {field}=@photo.jpg.",
        )
    given = ", ".join(repr(name[:50]) for name in names) or "none"
    return ImageMissing(
        f"No file in the multipart field {field!r}; fields: {given}.",
        remedy=f"Name the field {field!r}, as curl -F {field}=@photo.jpg does.",
    )


async def run_while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, which is cancelled if the client disconnects.

    Call this after the body has been read. `work` has ended when this returns or raises. Raises
    ClientDisconnect.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_await_disconnect(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        if working.cancel():
            await asyncio.wait((working,))
        # The exception's traceback refers to this frame, and the task to the exception: without
        # this line, the cycle would keep the upload until the garbage collector runs.
        del working, leaving


async def _await_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
