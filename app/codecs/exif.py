"""The orientation that an EXIF block records. Knows nothing of the file around the block."""

import struct

ORIENTATION = 274
"""The number of the orientation's tag (Exif 2.32, tag 0x0112)."""


def read_orientation(exif: bytes) -> int:
    """Return the orientation in an EXIF block, or 1 (upright) if it cannot be read."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (position,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, position)
        for number in range(count):
            tag, kind, values, value = struct.unpack_from(
                order + "HHI4s", block, position + 2 + 12 * number
            )
            if tag == ORIENTATION and kind in (3, 4) and values == 1:
                return int(struct.unpack_from(order + ("H" if kind == 3 else "I"), value)[0])
    except struct.error:
        pass
    return 1
