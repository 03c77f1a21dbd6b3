"""Examples files with an offset index for random access to lines, and the order of an epoch.

One rule: the order in which examples are read is a function of their ids, the seed and the epoch
alone. An example that is added or left out moves no two others past each other.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate

from tuneloop import jsonl
from tuneloop.errors import DataError
from tuneloop.training.schema import TrainingExample


class IndexedFile:
    """Puts lines behind one another and remembers where each begins."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """Start with no lines; `write` takes blocks of them."""
        self._write = write
        self.offsets = array("Q", [0])

    @property
    def rows(self) -> int:
        """Lines until now."""
        return len(self.offsets) - 1

    def add(self, examples: Sequence[TrainingExample]) -> None:
        """Append examples."""
        self.add_lines([jsonl.encode_line(example) for example in examples])

    def add_lines(self, lines: Sequence[bytes]) -> None:
        """Append examples that are lines already."""
        if lines:
            self._write(b"".join(lines))
            ends = accumulate(map(len, lines), initial=self.offsets.pop())
            self.offsets.extend(ends)


def dump_offsets(offsets: array[int]) -> bytes:
    """Little-endian uint64: where each line begins, and the size of the file."""
    if sys.byteorder == "big":
        offsets = array("Q", offsets)
        offsets.byteswap()
    return offsets.tobytes()


def load_offsets(data: bytes, place: str) -> array[int]:
    """Read `dump_offsets` back; DataError if the bytes are none."""
    offsets = array("Q")
    if len(data) % offsets.itemsize or not data:
        raise DataError(
            f"{place}: holds {len(data)} bytes, expected a multiple of 8; export the dataset again"
        )
    offsets.frombytes(data)
    if sys.byteorder == "big":
        offsets.byteswap()
    return offsets


def index_url(url: str) -> str:
    """Where the index of a file of examples lies."""
    folder, _, name = url.rpartition("/")
    index = f"index/{name.partition('.jsonl')[0]}.u64"
    return f"{folder}/{index}" if folder else index
