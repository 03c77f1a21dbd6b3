"""Unpack small compressed data with a limit: a few kilobytes can hold gigabytes."""

from __future__ import annotations

import lzma
import zlib

MAX_UNPACKED_BYTES = 256 << 20
"""Largest unpacked data; etcd holds at most 1.5 MiB of a ConfigMap, and a sweep of many similar
members shrinks to a hundredth."""
_XZ = b"\xfd7zXZ\x00"


def unpack(data: bytes, limit_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """Unpack one gzip member or one xz stream, whichever the data begins with.

    Raises:
        ValueError: the data is neither, is truncated, or unpacks to more than the limit.
    """
    unpacker: lzma.LZMADecompressor | zlib._Decompress
    if data.startswith(_XZ):
        unpacker = lzma.LZMADecompressor()
    else:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpacker.decompress(data, limit_bytes)
    except (zlib.error, lzma.LZMAError) as e:
        raise ValueError(str(e)) from e
    if not unpacker.eof:
        is_long = len(text) >= limit_bytes
        raise ValueError(f"holds more than {limit_bytes:,} bytes" if is_long else "is truncated")
    return text
