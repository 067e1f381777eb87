"""A minimal HTTP/1.1 client that needs little processor time.

It shares the cores with the server that it measures, so it must be cheap: a photo costs 0.1 ms of
processor time, with aiohttp 4 to 6 times and with httpx 20 times as much. httpx only encodes the
requests, before the measurement. Supports keep-alive and Content-Length.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """`head` and `body` are sent unchanged."""

    name: str
    head: bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def get_request(path: str) -> Request:
    return Request(path, f"GET {path} HTTP/1.1\r\nHost: benchmark\r\n\r\n".encode())


def post_request(name: str, path: str, **content: Any) -> Request:
    """`content` has httpx' arguments: `files` for a form, or `content` and `headers`."""
    request = httpx.Request("POST", f"http://benchmark{path}", **content)
    body = request.read()
    lines = [f"POST {path} HTTP/1.1", *(f"{key}: {it}" for key, it in request.headers.items())]
    return Request(name, ("\r\n".join(lines) + "\r\n\r\n").encode(), body)


def upload_request(path: str, photo: bytes, *, name: str = "a photo") -> Request:
    """Return a POST of one photo in a form, as browsers and curl send it."""
    return post_request(name, path, files={"file": ("photo.jpg", photo)})


class Connection:
    """A keep-alive connection. `send` opens it if it is not open."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: Streams | None = None

    async def send(self, request: Request) -> Response:
        """Raises OSError or EOFError if the server cannot be reached or closes the connection."""
        try:
            reader, writer = await self._open()
            # No drain: an overloaded server may answer before it has read the whole request.
            writer.writelines((request.head, request.body))
            response = await read_response(reader)
        except BaseException:
            self.close()
            raise
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _open(self) -> Streams:
        if self._streams is not None:
            reader, _ = self._streams
            if reader.at_eof() or reader.exception() is not None:
                self.close()  # the server has closed it, as it was idle for some seconds
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._address.host, self._address.port)
        return self._streams


@asynccontextmanager
async def open_streams(address: Address) -> AsyncIterator[Streams]:
    """Open a plain TCP connection, which is closed when the block ends."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def read_response(reader: asyncio.StreamReader) -> Response:
    """Read one response, which may be `100 Continue`.

    Raises OSError or EOFError if the server closes the connection.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.rstrip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Response(int(status_line.split(" ", 2)[1]), headers, body)


async def send_once(address: Address, request: Request) -> Response:
    """Send the request on a connection of its own."""
    connection = Connection(address)
    try:
        return await connection.send(request)
    finally:
        connection.close()
