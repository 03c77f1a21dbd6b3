"""Decompress gzip and zstd streams, with a limit on how far they expand.

The first bytes of a stream tell its compression, not the name of the file. A stream of standard
input has no name, and some servers decompress `.gz` files on the way.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, cast

from tuneloop.errors import DataError, UsageError
from tuneloop.settings.limits import InputLimits, input_limits, raise_with

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_PIECE_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""Bytes 1 to 3 of a skippable frame (RFC 8878, section 3.1.2); byte 0 is 0x50 to 0x5f."""


class BlockReader(io.RawIOBase):
    """A stream of blocks as a binary file, for libraries that read files."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        """Read from blocks, which are taken one by one."""
        self._blocks = blocks
        self._rest = memoryview(b"")
        self.count = 0
        """Bytes that have been taken from the blocks."""

    def readable(self) -> bool:
        """Return True, as `io` requires it."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer with the next bytes; returns their number, 0 at the end."""
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
            self.count += len(block)
        target = memoryview(buffer)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def unpacked(blocks: Iterator[bytes], place: str) -> Iterator[bytes]:
    """Decompress a stream if it is gzip or zstd data; other streams pass unchanged.

    Args:
        blocks: the stored bytes.
        place: path or URL of the file, for error messages.

    Raises:
        DataError: the data is damaged or truncated, or expands beyond the limit `expansion`.
        UsageError: it is zstd data, and the package that reads it is not installed.
    """
    first = next(blocks, b"")
    whole = chain((first,), blocks)
    if first.startswith(_GZIP):
        return _read(whole, place, "gzip")
    if first.startswith(_ZSTD) or _is_skippable(first):
        return _read(whole, place, "zstd")
    return whole


def _is_skippable(data: bytes) -> bool:
    """Return whether zstd data begins with a frame that is no text, as `pzstd` writes it."""
    return data[1:4] == _ZSTD_SKIPPABLE and 0x50 <= data[0] <= 0x5F


def _read(blocks: Iterator[bytes], place: str, kind: str) -> Iterator[bytes]:
    source = BlockReader(blocks)
    file, errors = _open(source, place, kind)
    text, limits = 0, input_limits()
    try:
        while piece := file.read(_PIECE_BYTES):
            text += len(piece)
            check_expansion(place, source.count, text, limits)
            yield piece
    except EOFError as e:
        raise DataError(
            f"{place}: the {kind} data is truncated, expected a whole file; fetch it again"
        ) from e
    except errors as e:
        raise DataError(f"{place}: is not valid {kind} data ({e}); fetch it again") from e


def _open(
    source: BlockReader, place: str, kind: str
) -> tuple[BinaryIO, tuple[type[Exception], ...]]:
    buffered = io.BufferedReader(source, _PIECE_BYTES)
    if kind == "gzip":
        errors = (gzip.BadGzipFile, zlib.error)
        return cast(BinaryIO, gzip.GzipFile(fileobj=buffered)), errors
    try:
        import pyzstd
    except ModuleNotFoundError as e:
        raise UsageError(
            f"{place}: is zstd data, and the package pyzstd that reads it is not installed; install"
            " the extra `data`, or decompress the file with `zstd -d`"
        ) from e
    return cast(BinaryIO, pyzstd.ZstdFile(buffered)), (pyzstd.ZstdError,)


def check_expansion(place: str, stored: int, text: int, limits: InputLimits) -> None:
    """Refuse a compressed file that expands too far.

    Args:
        place: name or URL of the file.
        stored: compressed bytes read so far.
        text: bytes of text that they have expanded to.
        limits: limits of this process.

    Raises:
        DataError: the text is longer than the limit `expansion` allows.
    """
    if text > limits.expansion * stored + limits.free_text_bytes:
        raise DataError(
            f"{place}: {stored:,} bytes have expanded to more than {text:,} bytes of text, expected"
            f" at most {limits.expansion} times as many; if the file is what it should be,"
            f" decompress it first, {raise_with('expansion')}"
        )
