"""The compression of PNG, gzip and ZIP: by ISA-L, or where it is missing by the standard library.

ISA-L is for x86-64 and ARM; the standard library is slower. Knows nothing of what is compressed.
"""

try:
    from isal.isal_zlib import compress, compressobj, crc32, decompress
except ImportError:
    from zlib import compress, compressobj, crc32, decompress  # type: ignore[assignment]

__all__ = ["GZIP", "LEVEL", "compress", "compressobj", "crc32", "decompress"]

LEVEL = 1
"""The level of ISA-L: 0 doubles the bytes of a mask in the same time, 3 takes six times as long."""

GZIP = 16 + 15
"""The window bits for which `compressobj` writes the gzip format."""
