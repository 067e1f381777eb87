"""What decoding a JPEG can cost, from its headers: how many samples its scans go over.

Knows the file's structure; decodes nothing.
"""

import re
import struct
from itertools import islice

from app.codecs.containers import segments
from app.errors import BrokenImage

SCAN = re.compile(rb"\xff\xda\0")
"""Starts a scan of a JPEG; coded samples cannot contain it."""

MAX_SCANS = 100
"""A progressive JPEG has about ten. Each goes over the whole picture, and 65 bytes make one that
takes 25 ms in a flat picture of 40 megapixels: a file of 32 MiB could take hours.
"""

COMMON_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive, all of Huffman's codes. Arithmetic codes take ten times as
long, and there are frames without loss.
"""

MAX_ORDINARY_SAMPLES = 200_000_000
"""That scans go over. Baseline, 25 megapixels have 75 million at most; a progressive photo of 12
megapixels has about 100 million. The slowest that was found takes 8 ns a sample
(noise, the same scan twenty times).
"""


def require_few_scans(data: bytes) -> None:
    """Raises BrokenImage."""
    if next(islice(SCAN.finditer(data), MAX_SCANS, None), None) is not None:
        raise BrokenImage(
            f"The JPEG has more than {MAX_SCANS} scans.",
            remedy="Save it anew, as a baseline or a common progressive JPEG.",
        )


def is_ordinary(data: bytes) -> bool:
    """Whether the decoder is surely done with it soon. Raises BrokenImage."""
    require_few_scans(data)
    frames = [
        (marker, data[start + 4 : end])
        for marker, start, end in segments(data)
        if 0xC0 <= marker < 0xD0 and marker not in (0xC4, 0xC8, 0xCC)  # tables, reserved
    ]
    if len(frames) != 1 or frames[0][0] not in COMMON_FRAMES:
        return False
    try:
        samples = component_samples(frames[0][1])
        worked_over = sum(
            _scan_samples(data, found.start(), samples) for found in SCAN.finditer(data)
        )
    except (struct.error, ZeroDivisionError, IndexError):
        return False
    return worked_over <= MAX_ORDINARY_SAMPLES


def component_samples(frame: bytes) -> dict[int, int]:
    """{component: its samples}, each of whole blocks, from a frame header of 8 bits a sample."""
    bits, height, width, count = struct.unpack_from(">BHHB", frame)
    parts = [frame[6 + 3 * i : 9 + 3 * i] for i in range(count)]
    if not parts:
        raise struct.error
    across, down = max(part[1] >> 4 for part in parts), max(part[1] & 15 for part in parts)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    samples = {part[0]: 64 * units * (part[1] >> 4) * (part[1] & 15) for part in parts}
    if bits != 8 or len(samples) != count or not units or not all(samples.values()):
        raise struct.error
    return samples


def _scan_samples(data: bytes, start: int, samples: dict[int, int]) -> int:
    """Of the components that the scan names; of all where it names others."""
    named = data[start + 5 : start + 5 + 2 * data[start + 4] : 2]
    if not set(named) <= samples.keys():
        return sum(samples.values())
    return sum(samples[component] for component in named)
