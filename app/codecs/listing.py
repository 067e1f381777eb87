"""The results of several files as a JSON list, with the answer or the problem of each file.

The list is encoded in pieces while it is sent. Knows nothing of HTTP's messages.
"""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson

from app.codecs.answers import LARGEST_PIECE_BYTES, WHOLE_BYTES, Answer, join_pieces
from app.formats import JSON

STEP_BYTES = 3 * 2**16
"""The number of bytes that become base64 at a time; three bytes become four characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of one file: its answer, or else its problem."""

    name: str
    """The name that the client has sent, which may be any text."""
    status: int
    timings_ms: Mapping[str, float]
    answer: Answer | None = None
    media_type: str = ""
    """The media type of the answer."""
    problem: Mapping[str, str | int] | None = None
    retry_after_s: int | None = None

    def describe(self) -> dict[str, object]:
        """Return the fields of the result without the answer itself."""
        fields: dict[str, object] = {"name": self.name, "status": self.status}
        if self.answer is not None:
            height, width = self.answer.mask_size
            fields |= {"media_type": self.media_type, "height": height, "width": width}
            fields["timings_ms"] = self.timings_ms
        else:
            fields["problem"] = self.problem
            if self.retry_after_s is not None:
                fields["retry_after_s"] = self.retry_after_s
        return fields


def make_list(results: Sequence[Result]) -> Answer:
    """Return the list. An answer in JSON is included as it is, any other as a string in base64."""
    size_bytes = sum(map(_count_bytes, results)) + len(results) + 1
    pieces = join_pieces(_write(results))
    if size_bytes <= WHOLE_BYTES:
        return Answer(size_bytes, size_bytes, whole=b"".join(pieces))
    return Answer(size_bytes, 2 * LARGEST_PIECE_BYTES, pieces=pieces)


def _count_bytes(result: Result) -> int:
    head, answer = len(_format_head(result)), result.answer
    if answer is None:
        return head + 1
    is_json = result.media_type == JSON
    return head + 1 + (answer.size_bytes if is_json else 2 + 4 * -(-answer.size_bytes // 3))


def _format_head(result: Result) -> bytes:
    fields = orjson.dumps(result.describe())[:-1]
    return fields + b',"answer":' if result.answer is not None else fields


def _write(results: Sequence[Result]) -> Iterator[bytes]:
    for number, result in enumerate(results):
        yield b"," if number else b"["
        yield _format_head(result)
        if result.answer is not None:
            pieces = split_answer(result.answer)
            yield from pieces if result.media_type == JSON else _quote(pieces)
        yield b"}"
    yield b"]"


def split_answer(answer: Answer) -> Iterable[bytes]:
    """Return the pieces of an answer, whether it is whole or not. Call this only once."""
    return answer.pieces if answer.whole is None else split_bytes(answer.whole)


def split_bytes(data: bytes | memoryview) -> Iterator[bytes]:
    """Yield copies of parts, each of them made only when it is needed."""
    for first in range(0, len(data), STEP_BYTES):
        yield bytes(data[first : first + STEP_BYTES])


def _quote(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a JSON string with the bytes in base64."""
    yield b'"'
    rest = b""
    for piece in pieces:
        data = rest + piece
        end = len(data) - len(data) % 3
        yield b64encode(data[:end])
        rest = data[end:]
    yield b64encode(rest) + b'"'
