"""A strict parser of HTTP/1.1 requests, around httptools' parser.

Reports a request once its head is complete and the length of its body is certain. Ignores upgrades
and trailers. Knows nothing of connections.
"""

from collections.abc import Sequence
from typing import Protocol

import httptools

from app.errors import BadRequest, RequestError, Unimplemented

Field = tuple[bytes, bytes]


class ParserCallbacks(Protocol):
    """The methods of httptools' protocol that uvicorn implements."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class RequestParser:
    """Replaces httptools.HttpRequestParser."""

    def __init__(self, callbacks: ParserCallbacks) -> None:
        self._callbacks = callbacks
        self._url = b""
        self._fields: list[Field] = []
        self._is_in_head = False
        self._has_reported = False
        self._parser = self._make_parser()

    def _make_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # "Connection: close" concerns the answer; bytes that follow the request are no error.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def feed_data(self, data: bytes) -> None:
        """Parse the next bytes. Raises BadRequest, Unimplemented, and what callbacks raise."""
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, RequestError):
                raise error.__context__ from None
            raise BadRequest(
                f"The bytes cannot be read as HTTP/1.1: {error}.",
                remedy="Send a request that follows RFC 9112.",
            ) from error

    def _feed(self, data: bytes) -> bytes:
        """Return the bytes that are not parsed yet: the parser stops after a head with Upgrade."""
        try:
            self._parser.feed_data(data)
            return b""
        except httptools.HttpParserUpgrade as stop:
            position: int = stop.args[0]
        # Outside of `except`, so that an error has no other context than its own.
        self._ignore_upgrade()
        return data[position:]

    def _ignore_upgrade(self) -> None:
        """Continue as if the request had not asked for an upgrade (RFC 9110, 7.8).

        The parser would treat the following bytes as another protocol, and has no option against
        it. So a new parser reads the head again, without the Upgrade field, and then the body.
        """
        fields = [field for field in self._fields if field[0].lower() != b"upgrade"]
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)]
        lines += [b"%b: %b" % field for field in fields]
        self._parser = self._make_parser()
        self._parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def on_message_begin(self) -> None:
        self._url = b""
        self._fields = []
        self._is_in_head, self._has_reported = True, False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # trailers do not change their request (RFC 9110, 6.5.1)
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self._parser.get_method() == b"CONNECT":
            raise Unimplemented("This server is not a proxy.", remedy="Use another method.")
        if self._parser.should_upgrade():
            return
        require_host(self._fields, version=self.get_http_version())
        codings = [value for name, value in self._fields if name.lower() == b"transfer-encoding"]
        if codings:
            require_chunked(b",".join(codings), version=self.get_http_version())
        self._callbacks.on_message_begin()
        self._callbacks.on_url(self._url)
        for field in self._fields:
            self._callbacks.on_header(*field)
        self._callbacks.on_headers_complete()
        self._has_reported = True

    def on_body(self, body: bytes) -> None:
        self._callbacks.on_body(body)

    def on_message_complete(self) -> None:
        if self._has_reported:
            self._callbacks.on_message_complete()

    def get_http_version(self) -> str:
        return self._parser.get_http_version()

    def get_method(self) -> bytes:
        return self._parser.get_method()

    def should_keep_alive(self) -> bool:
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        """Return False: upgrades are ignored."""
        return False


def require_host(fields: Sequence[Field], *, version: str) -> None:
    """Raise unless the version and the number of Host fields are valid (RFC 9112, 2.3 and 3.2)."""
    hosts = sum(name.lower() == b"host" for name, _ in fields)
    if version not in ("1.0", "1.1"):
        raise BadRequest(
            "The request line has no version of HTTP/1.",
            remedy="End the request line with HTTP/1.1.",
        )
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise BadRequest(
            f"The request has {hosts} Host fields, not one.",
            remedy="Send one Host field, with the name of the server.",
        )


def require_chunked(codings: bytes, *, version: str) -> None:
    """Raise unless chunked is the only transfer coding (RFC 9112, 6.1 and 6.3)."""
    names = [name.strip().lower() for name in codings.split(b",")]
    shown = codings[:100].decode("latin-1")
    if version == "1.0" or names[-1] != b"chunked" or b"chunked" in names[:-1]:
        raise BadRequest(
            f"Transfer-Encoding {shown!r} in HTTP/{version} leaves the end of the body uncertain.",
            remedy="Send a Content-Length, or chunked as the last coding in HTTP/1.1.",
        )
    if len(names) > 1:
        raise Unimplemented(
            f"Transfer-Encoding {shown!r} has codings besides chunked.",
            remedy="Use only chunked, or send a Content-Length.",
        )
