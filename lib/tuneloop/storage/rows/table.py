"""The table of file types that have rows.

To add a type, write a reader in a new module of this package and add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tuneloop.storage.rows.row import Row

SUFFIXES = (".gz", ".zst")
"""Suffixes that compressed files have after the suffix of their content."""

ReadBlocks = Callable[[Iterator[bytes], str], Iterator[Row]]
"""(text of a file, its place) -> its rows."""
ReadPath = Callable[[str, str, Sequence[str]], Iterator[Row]]
"""(local path, place, columns to skip) -> the rows."""


@dataclass(frozen=True)
class FileType:
    """One row of the table."""

    description: str
    """Content of such a file; shown by `--help` and in the documentation."""
    suffixes: tuple[str, ...]
    """Endings of the names of such files."""
    read_blocks: Callable[[], ReadBlocks] | None = None
    """Import the reader of a stream; the stream may be compressed."""
    read_path: Callable[[], ReadPath] | None = None
    """Import the reader of a local path, for types that cannot be read as a stream."""
    magic: bytes | None = None
    """First bytes of every such file; None if they differ."""


def _json() -> ReadBlocks:
    from tuneloop.storage.rows.json_rows import json_rows

    return json_rows


def _csv() -> ReadBlocks:
    from tuneloop.storage.rows.csv_rows import csv_rows

    return csv_rows


def _tsv() -> ReadBlocks:
    from tuneloop.storage.rows.csv_rows import csv_rows

    return lambda blocks, place: csv_rows(blocks, place, "\t")


def _semicolons() -> ReadBlocks:
    from tuneloop.storage.rows.csv_rows import csv_rows

    return lambda blocks, place: csv_rows(blocks, place, ";")


def _parquet() -> ReadPath:
    from tuneloop.storage.rows.arrow_rows import table_rows

    return lambda path, place, dropped: table_rows(path, place, parquet=True, dropped=dropped)


def _arrow() -> ReadPath:
    from tuneloop.storage.rows.arrow_rows import table_rows

    return lambda path, place, dropped: table_rows(path, place, parquet=False, dropped=dropped)


FILE_TYPES: dict[str, FileType] = {
    "json": FileType(
        "JSON Lines, one JSON array of objects, or one JSON object",
        (".jsonl", ".ndjson", ".json"),
        read_blocks=_json,
    ),
    "csv": FileType("values separated by commas, with a header", (".csv",), read_blocks=_csv),
    "tsv": FileType("values separated by tabs, with a header", (".tsv",), read_blocks=_tsv),
    "semicolons": FileType(
        "values separated by semicolons, as Excel writes CSV in many countries",
        (),
        read_blocks=_semicolons,
    ),
    "parquet": FileType("a Parquet file", (".parquet",), read_path=_parquet, magic=b"PAR1"),
    "arrow": FileType(
        "an Arrow file or stream, as `save_to_disk` of datasets writes it",
        (".arrow",),
        read_path=_arrow,
        magic=b"ARROW1",
    ),
}
"""File types by name. This module imports nothing heavy, because `tuneloop --help` imports it."""
DEFAULT_TYPE = "json"
"""Type of a file with another suffix or without one, such as standard input."""


def type_of(url: str) -> str:
    """Return the type of a file by the suffix of its name, before `.gz` or `.zst`."""
    name = url.lower()
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    for key, row in FILE_TYPES.items():
        if name.endswith(row.suffixes):
            return key
    return DEFAULT_TYPE
