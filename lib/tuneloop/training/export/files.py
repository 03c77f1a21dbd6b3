"""Files of examples: JSON Lines, as they are or compressed, with random access to lines.

One rule: what a file says does not depend on whether it is compressed; its index counts the bytes
of the text. Compressed files are of the zstd seekable format: frames of a megabyte of text and a
table of them at the end, which any zstd reads through and a seekable reader jumps into.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from tuneloop.errors import DataError
from tuneloop.storage import files
from tuneloop.training.export.index import index_url, load_offsets

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PLAIN, COMPRESSED = ".jsonl", ".jsonl.zst"
SUFFIXES = {"none": PLAIN, "zstd": COMPRESSED}
"""How a file of examples is named, by the export's `compression`."""
_FRAME_BYTES = 1 << 20
_LEVEL = 3


def is_examples_file(url: str) -> bool:
    """Whether a URL is that of one file rather than of a prefix."""
    return url.endswith((PLAIN, COMPRESSED))


@contextlib.contextmanager
def text_writer(name: str, write: Callable[[bytes], None]) -> Iterator[Callable[[bytes], object]]:
    """Give a function that takes text and hands on what belongs into the file of that name."""
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
    file.close()  # a file that is given up needs no table


def text_blocks(name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The text of a file of that name.

    Args:
        name: of the file, or its URL.
        blocks: what it holds; read to the end.

    Raises:
        DataError: it is not compressed as its name says.
    """
    if not name.endswith(COMPRESSED):
        yield from blocks
        return
    import pyzstd

    decompressor = pyzstd.EndlessZstdDecompressor()
    try:
        for block in blocks:
            yield decompressor.decompress(block)
    except pyzstd.ZstdError as e:
        raise DataError(f"{name}: is not zstd ({e}); export the dataset again") from e
    if not decompressor.at_frame_edge:
        raise DataError(f"{name}: ends within a frame; restore it or export the dataset again")


def read_line(url: str, row: int) -> bytes:
    """Read one line of a file of examples, and little else of it.

    Args:
        url: the file; its index lies beside it, as the export writes both.
        row: which line, from 0.

    Raises:
        DataError: file or index is missing, or there are not so many lines.
    """
    try:
        offsets = load_offsets(files.read(index_url(url)), index_url(url))
        if not 0 <= row < len(offsets) - 1:
            raise DataError(
                f"{url}: has {len(offsets) - 1} examples, found no row {row}; count from 0"
            )
        return _read_text(url, offsets[row], offsets[row + 1])
    except FileNotFoundError as e:
        raise DataError(f"{url}: it or its index is missing; give a file of an export") from e


def _read_text(url: str, start: int, stop: int) -> bytes:
    if not url.endswith(COMPRESSED):
        return files.read_range(url, start, stop)
    import pyzstd

    with io.BufferedReader(_Ranges(url)) as ranges, pyzstd.SeekableZstdFile(ranges) as file:
        file.seek(start)
        text: bytes = file.read(stop - start)
    return text


class _Ranges(io.RawIOBase):
    """An object as a file that can be read anywhere; asks for what is read."""

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
