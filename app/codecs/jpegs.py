"""Estimates the cost of decoding a JPEG from its headers: the samples that its scans cover.

Knows the structure of the file; decodes nothing.
"""

import re
import struct

from app.codecs.stripping import iterate_segments
from app.errors import BrokenImage

SCAN = re.compile(rb"\xff\xda\0")
"""A scan of a JPEG starts with these bytes, which compressed samples cannot contain."""

FRAME = re.compile(
    rb"\xff([\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf])(?=\0.[\x02-\x10](..)(..))", re.DOTALL
)
"""The start of a frame: marker, height, width. Compressed samples cannot contain it. Only the
marker is consumed, so that another may follow in what looks like a frame.
"""

MAX_SCANS = 100
"""The limit of scans; a progressive JPEG has about ten. A scan can cover the whole picture: one of
65 bytes takes 25 ms in a flat picture of 40 megapixels, so 32 MiB of them could take hours.
"""

COMMON_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive frames with Huffman codes. Arithmetic codes take ten times as
long, and lossless frames are rare.
"""

MAX_ORDINARY_SAMPLES = 20_000_000
"""The limit of samples that the scans of an ordinary JPEG cover, which take at most 0.16 s: its
thread cannot be interrupted, and other files wait for it. A baseline photo of 12 megapixels has 18
million, a progressive one of 2 megapixels about 17 million.
"""

MAX_BYTES_PER_SAMPLE = 2
FREE_BYTES = 2**18
"""An ordinary JPEG has at most as many bytes as these two allow: noise in the best quality has 1.4
per sample. Bytes that are no samples, such as padding and markers, take up to 6 ns each.
"""

SAMPLE_S = 8e-9
"""The time per sample that a scan covers, in the slowest file found: noise, with the same scan
twenty times.
"""

SCAN_S = 1e-6
"""The time to begin a scan; 0.6 us were measured."""

ARITHMETIC = 10
"""The factor for frames with arithmetic coding."""


def require_few_scans(data: bytes) -> None:
    """Raise BrokenImage if the JPEG has more than MAX_SCANS scans."""
    for number, _ in enumerate(SCAN.finditer(data), 1):
        if number > MAX_SCANS:
            raise BrokenImage(
                f"The JPEG has more than {MAX_SCANS} scans.",
                remedy="Save it again, as a baseline or a common progressive JPEG.",
            )


def is_ordinary(data: bytes) -> bool:
    """Return whether the JPEG is certain to be decoded fast. Raises BrokenImage."""
    require_few_scans(data)
    frames = [
        (marker, data[start + 4 : end])
        for marker, start, end in iterate_segments(data)
        if 0xC0 <= marker < 0xD0 and marker not in (0xC4, 0xC8, 0xCC)  # tables, reserved
    ]
    if len(frames) != 1 or frames[0][0] not in COMMON_FRAMES:
        return False
    try:
        samples = count_component_samples(frames[0][1])
        covered = sum(
            _count_scan_samples(data, found.start(), samples) for found in SCAN.finditer(data)
        )
    except (struct.error, ZeroDivisionError, IndexError):
        return False
    bits, count = frames[0][1][0], frames[0][1][5]
    return (
        (bits, len(samples)) == (8, count)
        and covered <= MAX_ORDINARY_SAMPLES
        and len(data) <= FREE_BYTES + MAX_BYTES_PER_SAMPLE * covered
    )


def estimate_scans_s(data: bytes, pixels: int) -> float:
    """Estimate the seconds to decode all scans in data that need not be a valid JPEG.

    Each scan counts as if it were in the largest frame, or in one of `pixels` if there is none.
    """
    largest: dict[int, int] = {}
    factor = 1
    for found in FRAME.finditer(data):
        try:
            samples = count_component_samples(data[found.start() + 4 : found.start() + 262])
        except (struct.error, ZeroDivisionError, IndexError):
            continue  # no decoder can read it
        largest |= {name: max(count, largest.get(name, 0)) for name, count in samples.items()}
        if found[1][0] > 0xC8:
            factor = ARITHMETIC
    largest = largest or {0: pixels}
    starts = (found.start() for found in SCAN.finditer(data, 0, max(0, len(data) - 2)))
    scans = [_count_scan_samples(data, start, largest) for start in starts]
    return factor * SAMPLE_S * sum(scans) + SCAN_S * len(scans)


def count_component_samples(frame: bytes) -> dict[int, int]:
    """Return the number of samples of each component, in whole blocks, from a frame's header."""
    _, height, width, count = struct.unpack_from(">BHHB", frame)
    parts = [frame[6 + 3 * i : 9 + 3 * i] for i in range(count)]
    if not parts:
        raise struct.error
    across, down = max(part[1] >> 4 for part in parts), max(part[1] & 15 for part in parts)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    samples = dict.fromkeys((part[0] for part in parts), 0)
    for part in parts:  # several may have the same name
        samples[part[0]] += 64 * units * (part[1] >> 4) * (part[1] & 15)
    if not all(samples.values()):
        raise struct.error
    return samples


def _count_scan_samples(data: bytes, start: int, samples: dict[int, int]) -> int:
    """Return the samples of the scan's components; of all components if one is unknown."""
    named = data[start + 5 : start + 5 + 2 * data[start + 4] : 2]
    if not set(named) <= samples.keys():
        return sum(samples.values())
    return sum(samples[component] for component in named)
