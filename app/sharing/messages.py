"""The messages between a worker and an engine process: small, of fixed layout, without pixels.

The socket keeps their bounds. Knows nothing of what they cause.
"""

import struct
from typing import NamedTuple

VERSION = 1
"""The version of the messages. Both ends have the same, unless the code is replaced meanwhile."""

MAX_BYTES = 2**13
"""The limit of a packed message."""

MAX_TEXT_BYTES = 2**11

_CODE = struct.Struct("<B")
_LENGTH = struct.Struct("<H")


class MalformedMessage(Exception):
    """The other end has sent what it must not send."""


class Hello(NamedTuple):
    """The first message of a worker. Its shared memory for small images is sent with it."""

    number: int
    """The version."""


class Welcome(NamedTuple):
    """The answer to Hello."""

    number: int
    """The version."""
    pid: int


class Load(NamedTuple):
    """Asks for an engine with the weights whose file is sent with it."""

    number: int
    digest: bytes


class Loaded(NamedTuple):
    """The engine with these weights is warm. `images` keep it busy."""

    number: int
    images: int
    device: str
    description: str


class Refused(NamedTuple):
    """The engine cannot compute with these weights, for the reason in `text`."""

    number: int
    text: str


class Segment(NamedTuple):
    """Asks for the mask of an image, or for its confidence.

    Its frame is at `offset` of the shared memory, or in memory of its own that is sent with it.
    """

    number: int
    offset: int
    digest: bytes
    confidence: bool
    height: int
    width: int
    content_height: int
    content_width: int
    output_height: int
    output_width: int
    request_id: str


class Cancel(NamedTuple):
    """Asks to drop the image, which is still answered: with Done, Failed, Unknown or Dropped."""

    number: int


class Done(NamedTuple):
    """The mask, which took `inference_us` to compute, is in the image's frame."""

    number: int
    inference_us: int


class Failed(NamedTuple):
    """The engine failed on this image."""

    number: int


class Unknown(NamedTuple):
    """The engine does not have the image's weights."""

    number: int


class Dropped(NamedTuple):
    """The image was cancelled, and its frame is not used any more."""

    number: int


class Ping(NamedTuple):
    """Asks for a Pong."""

    number: int = 0


class Pong(NamedTuple):
    """Shows that the engine's process is not suspended."""

    number: int = 0


Message = (
    Hello | Welcome | Load | Loaded | Refused | Segment | Cancel | Done | Failed | Unknown
    | Dropped | Ping | Pong
)  # fmt: skip

_LAYOUTS: tuple[tuple[type[Message], str], ...] = (
    (Hello, "<I"),
    (Welcome, "<II"),
    (Load, "<I32s"),
    (Loaded, "<II"),
    (Refused, "<I"),
    (Segment, "<IQ32s?6I"),
    (Cancel, "<I"),
    (Done, "<II"),
    (Failed, "<I"),
    (Unknown, "<I"),
    (Dropped, "<I"),
    (Ping, "<I"),
    (Pong, "<I"),
)
"""The fields before the texts; each text follows with its length."""

_CODES = {kind: code for code, (kind, _) in enumerate(_LAYOUTS)}
_STRUCTS = [struct.Struct(layout) for _, layout in _LAYOUTS]


def pack(message: Message) -> bytes:
    """Return the bytes of a message. Texts that are too long are cut."""
    code = _CODES[type(message)]
    numbers = [value for value in message if not isinstance(value, str)]
    parts = [_CODE.pack(code), _STRUCTS[code].pack(*numbers)]
    for text in message:
        if isinstance(text, str):
            encoded = text.encode(errors="replace")[:MAX_TEXT_BYTES]
            parts += [_LENGTH.pack(len(encoded)), encoded]
    return b"".join(parts)


def unpack(data: bytes) -> Message:
    """Return the message of these bytes. Raises MalformedMessage."""
    try:
        (code,) = _CODE.unpack_from(data)
        kind, _ = _LAYOUTS[code]
        values: list[object] = list(_STRUCTS[code].unpack_from(data, _CODE.size))
        position = _CODE.size + _STRUCTS[code].size
        while len(values) < len(kind._fields):
            (length,) = _LENGTH.unpack_from(data, position)
            position += _LENGTH.size
            encoded = data[position : position + length]
            position += length
            values.append(encoded.decode(errors="replace"))
    except (struct.error, IndexError) as error:
        raise MalformedMessage(f"{len(data)} bytes are no message: {error}") from error
    if position != len(data):
        raise MalformedMessage(f"{kind.__name__} has {len(data)} bytes instead of {position}")
    message: Message = kind(*values)
    return message
