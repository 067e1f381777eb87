"""The image in a JSON body: {"image": "..."}, in base64 (RFC 4648, section 4).

Only this object is read, because arbitrary JSON can take 60 times its size as Python objects.
Knows nothing of HTTP.
"""

import binascii
import re

import orjson

from app.errors import ImageMissing

HEAD = re.compile(rb'\s*\{\s*"image"\s*:\s*"')
TAIL = re.compile(rb'"\s*\}\s*')

PIECE_CHARACTERS = 2**18
"""The number of characters decoded at a time, because decoding holds the interpreter's lock."""

REMEDY = (
    'Send {"image": "..."} with the file in base64, as `base64 -w0 photo.jpg` prints it, without '
    "line breaks and without a prefix like data:image/jpeg;base64,"
)


def read_image(body: bytes) -> bytes:
    """Return the bytes of the image, which are not empty. Raises ImageMissing."""
    head = HEAD.match(body)
    end = body.rfind(b'"')
    if head is None or end < head.end() or not TAIL.fullmatch(body, end):
        raise ImageMissing('The JSON body is not {"image": "..."}.', remedy=REMEDY)
    try:
        text: str = orjson.loads(body[head.end() - 1 : end + 1])
        pieces = [
            binascii.a2b_base64(text[first : first + PIECE_CHARACTERS], strict_mode=True)
            for first in range(0, len(text), PIECE_CHARACTERS)
        ]
    except ValueError as error:  # of orjson, or binascii.Error
        raise ImageMissing(f"The image is not in base64: {error}.", remedy=REMEDY) from error
    if not pieces:
        raise ImageMissing("The image is empty.", remedy=REMEDY)
    return b"".join(pieces)
