"""Search an export for the example of a trace.

Exports have no index by trace, and can hold millions of examples. A search therefore reads text
for a few seconds at a time, and says where to continue.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from tuneloop.artifacts.records import OutputFile, Record
from tuneloop.errors import DataError
from tuneloop.storage import files, paths
from tuneloop.training.export.exclusions import Exclusion
from tuneloop.training.export.files import read_line, read_text, text_bytes
from tuneloop.training.export.index import index_url, load_offsets
from tuneloop.training.schema import parse_example

BLOCK_BYTES = 4 << 20
"""Bytes of text that are searched at once."""
SEARCH_SECONDS = 2.0
EXCLUSIONS = "exclusions.jsonl"
LONGEST_EXCLUSION = 1 << 20


@dataclass(frozen=True)
class Place:
    """A position in the files of an export: file by file, those of examples first."""

    file: int = 0
    byte: int = 0

    def __str__(self) -> str:
        """Write it for an address; see `parse_place`."""
        return f"{self.file}.{self.byte}"


def parse_place(text: str) -> Place:
    """Parse what `str` of a place gives; anything else is the beginning."""
    file, _, byte = text.partition(".")
    if file.isascii() and file.isdigit() and byte.isascii() and byte.isdigit():
        return Place(int(file[:9]), int(byte[:18]))
    return Place()


@dataclass(frozen=True)
class Hit:
    """What a search has found."""

    file: OutputFile | None = None
    """The file of examples that holds the trace's example; None if there is none so far."""
    row: int = 0
    """Its line in the file, from 0."""
    excluded: str = ""
    """Why the export has excluded the trace; empty if it has not."""
    next: Place | None = None
    """Where to continue; None if the search is finished."""


def find_trace(
    artifacts: str,
    export: Record,
    examples: list[OutputFile],
    trace_id: str,
    start: Place,
    seconds: float = SEARCH_SECONDS,
) -> Hit:
    """Look for the example of a trace, then for its exclusion.

    Args:
        artifacts: URL of the artifacts prefix.
        export: record of the export.
        examples: its files of examples, in order.
        trace_id: id of the trace.
        start: where to begin.
        seconds: time after which the search stops at the next block.

    Raises:
        DataError: a file is missing or broken.
    """
    wanted = msgspec.json.encode(trace_id)
    deadline = time.monotonic() + seconds
    exclusions = export.outputs_like(EXCLUSIONS)
    for number, file in enumerate([*examples, *exclusions]):
        if number < start.file:
            continue
        url = paths.join(artifacts, file.path)
        is_example = number < len(examples)
        needle = (b'"source_trace_id":' if is_example else b'"trace_id":') + wanted
        begin = start.byte if number == start.file else 0
        for at, found in _occurrences(url, needle, begin, _size(url, is_example)):
            if found and is_example and (row := _row_at(url, at, wanted)) is not None:
                return Hit(file, row)
            if found and not is_example and (why := _exclusion_at(url, at, trace_id)):
                return Hit(excluded=why)
            if not found and time.monotonic() > deadline:
                return Hit(next=Place(number, at))
    return Hit()


def _size(url: str, is_example: bool) -> int:
    try:
        size = text_bytes(url) if is_example else files.size_bytes(url)
    except FileNotFoundError as e:
        raise DataError(f"{url}: its index is missing; export the dataset again") from e
    if size is None:
        raise DataError(f"{url}: is missing; export the dataset again")
    return size


def _occurrences(url: str, needle: bytes, start: int, size: int) -> Iterator[tuple[int, bool]]:
    """Yield (position, True) for each occurrence, and (position, False) after each block."""
    while start < size:
        # Blocks overlap, because an occurrence may lie across the end of one.
        stop = min(start + BLOCK_BYTES + len(needle) - 1, size)
        try:
            text = read_text(url, start, stop)
        except FileNotFoundError as e:
            raise DataError(f"{url}: is missing; export the dataset again") from e
        at = text.find(needle)
        while at >= 0:
            yield start + at, True
            at = text.find(needle, at + 1)
        start += BLOCK_BYTES
        yield min(start, size), False


def _row_at(url: str, at: int, wanted: bytes) -> int | None:
    """Return the row at a position if its own trace is the wanted one, and not one in its meta."""
    place = index_url(url)
    offsets = load_offsets(files.read(place), place)
    row = bisect.bisect_right(offsets, at) - 1
    example = parse_example(read_line(url, row), f"{url}:{row + 1}")
    found = example.metadata.get("source_trace_id")
    return row if found is not None and bytes(found) == wanted else None


def _exclusion_at(url: str, at: int, trace_id: str) -> str:
    """Describe the exclusion at a position; empty if it is one of another trace."""
    begin = max(0, at - LONGEST_EXCLUSION)
    text = files.read_range(url, begin, at + LONGEST_EXCLUSION)
    start = text.rfind(b"\n", 0, at - begin) + 1
    line = text[start:].partition(b"\n")[0]
    try:
        found = msgspec.json.decode(line, type=Exclusion)
    except ValueError as e:  # msgspec.DecodeError or UnicodeDecodeError
        raise DataError(f"{url}: has a broken line; export the dataset again") from e
    return f"{found.reason}: {found.detail}" if found.trace_id == trace_id else ""
