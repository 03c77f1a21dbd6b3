"""The table of file types that have rows, and the function that reads the rows of a place.

To add a type, write a reader in a new module of this package and add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tuneloop.errors import UsageError
from tuneloop.storage import files, local_copy
from tuneloop.storage.rows.compression import SUFFIXES, unpacked
from tuneloop.storage.rows.row import Row

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


def _json() -> ReadBlocks:
    from tuneloop.storage.rows.json_rows import json_rows

    return json_rows


def _csv() -> ReadBlocks:
    from tuneloop.storage.rows.csv_rows import csv_rows

    return csv_rows


def _tsv() -> ReadBlocks:
    from tuneloop.storage.rows.csv_rows import csv_rows

    return lambda blocks, place: csv_rows(blocks, place, "\t")


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
    "parquet": FileType("a Parquet file", (".parquet",), read_path=_parquet),
    "arrow": FileType(
        "an Arrow file or stream, as `save_to_disk` of datasets writes it",
        (".arrow",),
        read_path=_arrow,
    ),
}
"""File types by name. This module imports nothing heavy, because `tuneloop --help` imports it."""
DEFAULT_TYPE = "json"
"""Type of a file with another suffix or without one, such as standard input."""


@dataclass(frozen=True)
class Source:
    """A file or folder with rows, and what the user states about it."""

    url: str
    """Path or URL of a file, or of a folder of the library `datasets`."""
    file_type: str | None = None
    """Key of FILE_TYPES; None takes the type from the suffix of each name."""
    split: str | None = None
    """Split of a folder; None if it has only one."""
    subset: str | None = None
    """Subset of a folder; None if it has only one."""
    dropped: tuple[str, ...] = ()
    """Columns that are not read."""

    def files(self) -> list[str]:
        """Return the URLs of the files to read, in order.

        Raises:
            UsageError: there is no such place, or the split or subset is missing or unknown.
            DataError: the folder has no data files.
        """
        if files.exists(self.url):
            if self.split is not None or self.subset is not None:
                raise UsageError(
                    f"{self.url}: is a file, expected a folder with --split or --subset; remove the"
                    " option, or name a folder"
                )
            return [self.url]
        from tuneloop.storage.rows.folder import data_files

        if not files.list_names(self.url) and not files.list_folders(self.url):
            raise UsageError(
                f"{self.url}: no such file, expected a file of traces or a folder of datasets;"
                " check the path"
            )
        suffixes = [suffix for row in FILE_TYPES.values() for suffix in row.suffixes]
        endings = [suffix + end for suffix in suffixes for end in ("", *SUFFIXES)]
        return data_files(self.url, endings, split=self.split, subset=self.subset)


def type_of(url: str) -> str:
    """Return the type of a file by the suffix of its name, before `.gz` or `.zst`."""
    name = url.lower()
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    for key, row in FILE_TYPES.items():
        if name.endswith(row.suffixes):
            return key
    return DEFAULT_TYPE


def iter_rows(source: Source, seen: Callable[[bytes], object] = len) -> Iterator[Row]:
    """Read the rows of a file or folder.

    Args:
        source: the place.
        seen: called with every block of the stored files in order, for a digest.

    Raises:
        UsageError: there is no such place, or a package that reads it is not installed.
        DataError: a file is damaged.
    """
    for url in source.files():
        row = FILE_TYPES[source.file_type or type_of(url)]
        if row.read_blocks is not None:
            yield from row.read_blocks()(unpacked(_seen(url, seen), url), url)
        elif row.read_path is not None:
            for _ in _seen(url, seen):
                pass
            with local_copy.readable_path(url) as path:
                yield from row.read_path()(path, url, source.dropped)


def _seen(url: str, seen: Callable[[bytes], object]) -> Iterator[bytes]:
    for block in files.iter_blocks(url):
        seen(block)
        yield block
