"""The files of the pages: read at the first request, compressed, revalidated by ETag.

Names are looked up in a list that is made at the start; a name in a request never becomes a path.
"""

import hashlib
import zlib
from collections.abc import Iterator
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from fastapi import Request, Response

from app.codecs.deflate import GZIP
from app.http.negotiation import accepts_gzip, join_header

WEB = Path(__file__).parent.parent / "web"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")

MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "jpg": "image/jpeg",
}
COMPRESSED = ("html", "css", "js", "svg")


class Asset:
    """One file, with or without compression."""

    def __init__(self, path: Traversable, headers: dict[str, str]) -> None:
        """`headers` are added to each response with this file."""
        self.path = path
        self._suffix = path.name.rpartition(".")[2]
        self._headers = headers
        self.media_type = MEDIA_TYPES[self._suffix]

    @cached_property
    def content(self) -> bytes:
        """The file's bytes."""
        return self.path.read_bytes()

    @cached_property
    def compressed(self) -> bytes | None:
        """The file's bytes in the gzip format, None if its format is compressed already."""
        if self._suffix not in COMPRESSED:
            return None
        packer = zlib.compressobj(wbits=GZIP)
        return packer.compress(self.content) + packer.flush()

    @cached_property
    def digest(self) -> str:
        """The first 128 bits of the file's SHA-256."""
        return hashlib.sha256(self.content).hexdigest()[:32]

    def respond(self, request: Request) -> Response:
        """Return the file, or 304 if the browser already has it."""
        accepted = accepts_gzip(join_header(request, "accept-encoding"))
        packed = self.compressed if accepted else None
        etag = f'"{self.digest}"' if packed is None else f'"{self.digest}-gzip"'
        # no-cache: the browser keeps the file, and asks each time whether it has changed.
        headers = {**self._headers, "ETag": etag, "Cache-Control": "no-cache"}
        if self._suffix in COMPRESSED:
            headers["Vary"] = "Accept-Encoding"
        if _matches(join_header(request, "if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        if packed is not None:
            headers["Content-Encoding"] = "gzip"
        body = self.content if packed is None else packed
        return Response(body, media_type=self.media_type, headers=headers)


def _matches(if_none_match: str, etag: str) -> bool:
    """Return whether the header names the entity tag, or any (RFC 9110, 13.1.2)."""
    names = [name.strip().removeprefix("W/") for name in if_none_match.split(",")]
    return etag in names or "*" in names


def find_assets(headers: dict[str, str]) -> dict[str, Asset]:
    """Return the files of `app/web` and of Swagger UI by their names after /web/."""
    found = {name: Asset(path, headers) for name, path in _walk(WEB)}
    swagger = files("fastapi_swagger") / "resources"
    for name in SWAGGER_FILES:
        found[f"swagger/{name}"] = Asset(swagger / name, headers)
    return found


def _walk(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walk(path, f"{prefix}{path.name}/")
        elif path.name.rpartition(".")[2] in MEDIA_TYPES:
            yield prefix + path.name, path
