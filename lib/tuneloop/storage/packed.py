"""Unpack small compressed data with a limit: a few kilobytes can hold gigabytes."""

from __future__ import annotations

import lzma
import zlib

from tuneloop.settings.limits import input_limits, raise_with

_XZ = b"\xfd7zXZ\x00"


def unpack(data: bytes) -> bytes:
    """Unpack one gzip member or one xz stream, whichever the data begins with.

    etcd holds at most 1.5 MiB of a ConfigMap, and a sweep of many similar members shrinks to a
    hundredth.

    Raises:
        ValueError: the data is neither, is truncated, or unpacks to more than `unpacked_bytes`.
    """
    limit_bytes = input_limits().unpacked_bytes
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
        if len(text) < limit_bytes:
            raise ValueError("is truncated")
        raise ValueError(
            f"holds more than {limit_bytes:,} bytes, expected fewer; check who has written it,"
            f" {raise_with('unpacked_bytes')}"
        )
    return text
