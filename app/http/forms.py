"""The files of a multipart form, read while they arrive (RFC 7578).

Keeps only the names of the other parts, writes nothing to disk, and stops at the first error.
python-multipart limits the headers of a part. Knows nothing of images.
"""

from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 16
"""The largest number of parts of a form for one file; each further file allows one more."""


class FormError(Exception):
    """The body is not a valid form, or exceeds a limit; the message says which."""


@dataclass(frozen=True, slots=True)
class File:
    """A part with a file name. The client chooses the name, which may be any text."""

    name: str
    data: bytes


async def read_file(
    content_type: str, body: AsyncIterable[bytes], *, name: str
) -> tuple[bytes | None, list[str]]:
    """Return the bytes of the file `name`, or None, and the names of all parts.

    A file is a part with a file name; a form may have only one. The whole body is read. Raises
    FormError.
    """
    files, names = await read_files(content_type, body, name=name, max_files=1)
    return (files[0].data if files else None), names


async def read_files(
    content_type: str, body: AsyncIterable[bytes], *, name: str, max_files: int
) -> tuple[list[File], list[str]]:
    """Return the files `name`, in order, and the names of all parts.

    A form may have at most `max_files` files. The whole body is read. Raises FormError.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise FormError("its Content-Type names no boundary")
    form = _Form(name, max_files)
    try:
        parser = MultipartParser(boundary, form.list_callbacks())
        async for chunk in body:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise FormError("it does not follow the format of RFC 7578") from error
    if not form.has_ended:
        raise FormError("it has no end")
    return form.join_files(), form.names


class _Form:
    """The state of a form that is being parsed."""

    def __init__(self, wanted: str, max_files: int) -> None:
        self.names: list[str] = []
        self.has_ended = False
        self._wanted = wanted
        self._max_files = max_files
        self._max_parts = MAX_PARTS + max_files - 1
        self._kept: list[tuple[str, list[bytes]]] = []
        self._files_begun = 0
        self._is_kept = False
        self._field = b""
        self._value = b""
        self._disposition = b""

    def join_files(self) -> list[File]:
        """Return the wanted files. Call this once: it drops each file's chunks as it joins them."""
        files = []
        while self._kept:
            name, chunks = self._kept.pop(0)
            files.append(File(name, b"".join(chunks)))
        return files

    def list_callbacks(self) -> "MultipartCallbacks":
        """Return the methods that the parser calls."""
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._is_kept = False
        self._field = self._value = self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise FormError("a part has no name")
        name = options[b"name"].decode("utf-8", "replace")
        self.names.append(name)
        if len(self.names) > self._max_parts:
            raise FormError(f"it has more than {self._max_parts} parts")
        if b"filename" in options:
            self._files_begun += 1
            if self._files_begun > self._max_files:
                limit = "one file" if self._max_files == 1 else f"{self._max_files} files"
                raise FormError(f"it has more than {limit}")
            if name == self._wanted:
                file_name = options[b"filename"].decode("utf-8", "replace")
                self._kept.append((file_name, []))
                self._is_kept = True

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_kept:
            self._kept[-1][1].append(data[start:end])

    def _on_end(self) -> None:
        self.has_ended = True
