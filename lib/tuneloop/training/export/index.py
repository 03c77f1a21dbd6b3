"""Write files of examples with an index of line offsets, which allows random access to lines."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate

from tuneloop import jsonl
from tuneloop.errors import DataError
from tuneloop.training.schema import TrainingExample

OFFSET_BYTES = 8
"""Bytes of one offset in an index."""


class IndexedFile:
    """Appends lines to a file and records the offset of each."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """Create a file without lines; `write` is called with blocks of lines."""
        self._write = write
        self.offsets = array("Q", [0])

    @property
    def rows(self) -> int:
        """Return the number of lines so far."""
        return len(self.offsets) - 1

    def add(self, examples: Sequence[TrainingExample]) -> None:
        """Append examples."""
        self.add_lines([jsonl.encode_line(example) for example in examples])

    def add_lines(self, lines: Sequence[bytes]) -> None:
        """Append examples that are already encoded as lines."""
        if lines:
            self._write(b"".join(lines))
            ends = accumulate(map(len, lines), initial=self.offsets.pop())
            self.offsets.extend(ends)


def dump_offsets(offsets: array[int]) -> bytes:
    """Serialize offsets as little-endian uint64: the start of each line, then the text's size."""
    if sys.byteorder == "big":
        offsets = array("Q", offsets)
        offsets.byteswap()
    return offsets.tobytes()


def load_offsets(data: bytes, place: str) -> array[int]:
    """Read offsets written by `dump_offsets`.

    Raises:
        DataError: the size of the data is not a positive multiple of 8 bytes.
    """
    check_index_size(len(data), place)
    offsets = array("Q")
    offsets.frombytes(data)
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets


def check_index_size(size_bytes: int, place: str) -> None:
    """Raise DataError if a size is not a positive multiple of 8 bytes."""
    if size_bytes % OFFSET_BYTES or not size_bytes:
        raise DataError(
            f"{place}: has {size_bytes} bytes, expected a positive multiple of {OFFSET_BYTES};"
            " export the dataset again"
        )


def index_url(url: str) -> str:
    """Return the URL of the index that belongs to a file of examples."""
    folder, _, name = url.rpartition("/")
    index = f"index/{name.partition('.jsonl')[0]}.u64"
    return f"{folder}/{index}" if folder else index
