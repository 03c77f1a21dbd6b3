"""Read and write files of examples: JSON Lines, plain or compressed, with random access to lines.

Compression does not change the text, and index offsets count bytes of the uncompressed text.
Compressed files use the zstd seekable format: frames of one megabyte of text, and a table of the
frames at the end. Any zstd reader can decompress them, and a seekable reader can start at any
frame.
"""

from __future__ import annotations

import contextlib
import io
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from tuneloop.errors import DataError
from tuneloop.settings.limits import input_limits, raise_with, variable
from tuneloop.storage import files
from tuneloop.storage.rows.compression import check_expansion
from tuneloop.training.export.index import (
    OFFSET_BYTES,
    check_index_size,
    index_url,
    load_offsets,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PLAIN, COMPRESSED = ".jsonl", ".jsonl.zst"
SUFFIXES = {"none": PLAIN, "zstd": COMPRESSED}
"""Suffix of example files by the value of `export.compression`."""
_PIECE_BYTES = 1 << 20
_FRAME_BYTES = 1 << 20
_LEVEL = 3


def is_examples_file(url: str) -> bool:
    """Return whether a URL names one file of examples and not a prefix."""
    return url.endswith((PLAIN, COMPRESSED))


@contextlib.contextmanager
def text_writer(name: str, write: Callable[[bytes], None]) -> Iterator[Callable[[bytes], object]]:
    """Open a writer for a file of examples.

    Args:
        name: name of the file; its suffix decides whether the text is compressed.
        write: called with the bytes to store.

    Yields:
        A function that accepts blocks of text.
    """
    if not name.endswith(COMPRESSED):
        yield write
        return
    import pyzstd

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            piece = bytes(data)  # type: ignore[call-overload]
            write(piece)
            return len(piece)

    sink = cast(BinaryIO, Sink())
    file = pyzstd.SeekableZstdFile(
        sink, "w", level_or_option=_LEVEL, max_frame_content_size=_FRAME_BYTES
    )
    yield file.write
    file.close()  # Writes the frame table. After an error the file is discarded without one.


def text_blocks(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress a file of examples, if its name has the suffix of a compressed file.

    Args:
        name: name or URL of the file.
        blocks: the stored bytes; read to the end.

    Yields:
        Blocks of text.

    Raises:
        DataError: the bytes are not zstd, or the file is truncated.
    """
    if not name.endswith(COMPRESSED):
        yield from blocks
        return
    import pyzstd

    decompressor = pyzstd.EndlessZstdDecompressor()
    stored, text, limits = 0, 0, input_limits()
    try:
        for block in blocks:
            stored += len(block)
            # Piece by piece, because a block of a megabyte can hold gigabytes of text.
            while block or not decompressor.needs_input:
                piece = decompressor.decompress(block, _PIECE_BYTES)
                block = b""
                text += len(piece)
                check_expansion(name, stored, text, limits)
                yield piece
    except pyzstd.ZstdError as e:
        raise DataError(f"{name}: is not valid zstd ({e}); export the dataset again") from e
    if not decompressor.at_frame_edge:
        raise DataError(
            f"{name}: the file is truncated within a zstd frame; restore it or export the dataset"
            " again"
        )


def read_line(url: str, row: int, *, max_bytes: int | None = None) -> bytes:
    """Read one line of a file of examples without reading the whole file or its whole index.

    Args:
        url: the file; its index must be in the folder `index` next to it.
        row: number of the line, from 0.
        max_bytes: limit of the line; None for no limit.

    Raises:
        DataError: the file or its index is missing, the file has too few lines, or the line is over
            the limit.
    """
    try:
        rows = count_rows(url)
        if not 0 <= row < rows:
            raise DataError(f"{url}: has {rows} examples and no row {row}; rows are counted from 0")
        start, stop = _offsets(url, row, row + 2)
        most = input_limits().line_bytes
        if not start <= stop <= start + most:
            raise DataError(
                f"{index_url(url)}: says that row {row} has {stop - start:,} bytes, expected at"
                f" most {most:,}; export the dataset again, {raise_with('line_bytes')}"
            )
        if max_bytes is not None and stop - start > max_bytes:
            raise DataError(
                f"{url}: row {row} has {stop - start:,} bytes, expected at most {max_bytes:,} here;"
                f" use `tuneloop examples inspect URL --row {row}`; the store's operator can change"
                f" the limit with {variable('shown_line_bytes')}"
            )
        return read_text(url, start, stop)
    except FileNotFoundError as e:
        raise DataError(
            f"{url}: the file or its index is missing; give the URL of a file that the export wrote"
        ) from e


def count_rows(url: str) -> int:
    """Return the number of lines of a file of examples, from the size of its index.

    Raises:
        FileNotFoundError: there is no index.
        DataError: the size is not that of an index.
    """
    size = files.size_bytes(index_url(url))
    if size is None:
        raise FileNotFoundError(index_url(url))
    check_index_size(size, index_url(url))
    return size // OFFSET_BYTES - 1


def text_bytes(url: str) -> int:
    """Return the bytes of the uncompressed text of a file of examples; raises as `count_rows`."""
    rows = count_rows(url)
    return _offsets(url, rows, rows + 1)[0]


def _offsets(url: str, first: int, stop: int) -> array[int]:
    place = index_url(url)
    data = files.read_range(place, first * OFFSET_BYTES, stop * OFFSET_BYTES)
    return load_offsets(data, place)


def read_text(url: str, start: int, stop: int) -> bytes:
    """Read a range of the uncompressed text of a file of examples.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: the bytes are not zstd in the seekable format.
    """
    if not url.endswith(COMPRESSED):
        return files.read_range(url, start, stop)
    import pyzstd

    try:
        with io.BufferedReader(_Ranges(url)) as ranges, pyzstd.SeekableZstdFile(ranges) as file:
            file.seek(start)
            text: bytes = file.read(stop - start)
    except (pyzstd.ZstdError, pyzstd.SeekableFormatError, EOFError) as e:
        raise DataError(f"{url}: is not valid zstd ({e}); export the dataset again") from e
    return text


class _Ranges(io.RawIOBase):
    """A seekable file object over a stored object; each read requests only its byte range."""

    def __init__(self, url: str) -> None:
        size = files.size_bytes(url)
        if size is None:
            raise FileNotFoundError(url)
        self._url, self._size, self._at = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._at + len(view), self._size)
        data = files.read_range(self._url, self._at, stop) if stop > self._at else b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
