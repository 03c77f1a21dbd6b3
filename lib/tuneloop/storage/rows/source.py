"""A file or folder with rows, and the function that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from tuneloop.errors import DataError, UsageError
from tuneloop.storage import files, local_copy
from tuneloop.storage.rows.compression import unpacked
from tuneloop.storage.rows.folder import data_files
from tuneloop.storage.rows.row import Row
from tuneloop.storage.rows.table import FILE_TYPES, SUFFIXES, type_of


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
        if not files.list_names(self.url) and not files.list_folders(self.url):
            raise UsageError(
                f"{self.url}: no such file, or an empty folder, expected a file of traces or a"
                " folder of datasets; check the path"
            )
        suffixes = [suffix for row in FILE_TYPES.values() for suffix in row.suffixes]
        endings = [suffix + end for suffix in suffixes for end in ("", *SUFFIXES)]
        return data_files(self.url, endings, split=self.split, subset=self.subset)


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
            text = _not_a_table(unpacked(_seen(url, seen), url), url)
            yield from row.read_blocks()(text, url)
        elif row.read_path is not None:
            for _ in _seen(url, seen):
                pass
            with local_copy.readable_path(url) as path:
                yield from row.read_path()(path, url, source.dropped)


def _not_a_table(blocks: Iterator[bytes], url: str) -> Iterator[bytes]:
    """Refuse a file of another type that cannot be text, such as Parquet on standard input."""
    first = next(blocks, b"")
    for name, row in FILE_TYPES.items():
        if row.magic is not None and first.startswith(row.magic):
            raise DataError(f"{url}: is {row.description}, expected text; add --file-type {name}")
    return chain((first,), blocks)


def _seen(url: str, seen: Callable[[bytes], object]) -> Iterator[bytes]:
    try:
        for block in files.iter_blocks(url):
            seen(block)
            yield block
    except FileNotFoundError as e:
        raise DataError(
            f"{url}: no such file, expected it because its folder lists it; fetch the folder again"
        ) from e
