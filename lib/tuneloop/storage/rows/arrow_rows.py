"""Rows of Parquet and Arrow files.

Dates, times, decimals and UUIDs become text, as they would in CSV. Columns of bytes, such as
images, have no JSON form; the caller must exclude them by name. Keys of objects that are null are
absent, because a column has one type: all objects in it have the keys of each other.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tuneloop.errors import DataError, UsageError
from tuneloop.storage.rows.row import Row

_BATCH_ROWS = 1000
_FILE_MAGIC = b"ARROW1"


class Table:
    """A file of columns that is read in batches of rows."""

    def __init__(self, source: Any, place: str, *, parquet: bool) -> None:
        """Open a file and read its schema.

        Args:
            source: local path of the file, or its content.
            place: path or URL of the file, for error messages.
            parquet: whether it is a Parquet file; otherwise it is an Arrow stream or file.

        Raises:
            DataError: the file is not readable.
            UsageError: pyarrow is not installed.
        """
        try:
            import pyarrow
        except ModuleNotFoundError as e:
            raise UsageError(
                f"{place}: the package pyarrow, which reads the file, is not installed; install the"
                " extra `data`"
            ) from e
        self._place = place
        self._kind = "Parquet" if parquet else "Arrow"
        self._errors = (pyarrow.ArrowException, OSError)
        if isinstance(source, bytes):
            source = pyarrow.BufferReader(source)
        try:
            self._schema, self._batches = _parquet(source) if parquet else _arrow(source)
        except self._errors as e:
            raise self._unreadable(e) from e
        names = self.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(
                f"{place}: has the column {twice!r} twice, expected it once; rename one"
            )

    @property
    def names(self) -> list[str]:
        """Names of the columns, in the order of the file."""
        return list(self._schema.names)

    @property
    def byte_columns(self) -> set[str]:
        """Names of the columns that hold bytes, also within lists and structures."""
        return {each.name for each in self._schema if _has_bytes(each.type)}

    def rows(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Read some of the columns of every row as JSON values; numbers may be infinite or NaN.

        Raises:
            DataError: a part of the file is not readable.
        """
        plain = all(_is_plain(self._schema.field(name).type) for name in names)
        try:
            for batch in self._batches(list(names)):
                for row in batch.to_pylist():
                    yield row if plain else {key: _plain(value) for key, value in row.items()}
        except self._errors as e:
            raise self._unreadable(e) from e

    def _unreadable(self, error: Exception) -> DataError:
        said = str(error).partition("\n")[0].rstrip(".")
        return DataError(f"{self._place}: not a readable {self._kind} file: {said}; fetch it again")


def table_rows(
    path: str, place: str, *, parquet: bool, dropped: Iterable[str] = ()
) -> Iterator[Row]:
    """Read the rows of a Parquet or Arrow file.

    Args:
        path: local path of the file.
        place: path or URL of the file, for error messages.
        parquet: whether it is a Parquet file.
        dropped: names of columns to skip.

    Raises:
        DataError: the file is not readable, or a column that is not dropped holds bytes.
    """
    table = Table(path, place, parquet=parquet)
    skipped = set(dropped)
    if found := sorted(table.byte_columns - skipped):
        raise DataError(
            f"{place}: the column {found[0]!r} holds bytes, expected values that JSON can hold;"
            f" exclude it with --drop {found[0]}"
        )
    names = [name for name in table.names if name not in skipped]
    for number, row in enumerate(table.rows(names), start=1):
        yield Row(f"{place}: row {number}", row)


def _parquet(source: Any) -> tuple[Any, Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(source)
    return file.schema_arrow, lambda names: file.iter_batches(batch_size=_BATCH_ROWS, columns=names)


def _arrow(source: Any) -> tuple[Any, Any]:
    """Open an Arrow file, or an Arrow stream, which `datasets` writes."""
    import pyarrow

    mapped = pyarrow.memory_map(source) if isinstance(source, str) else source
    is_file = mapped.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    mapped.seek(0)
    if is_file:
        reader = pyarrow.ipc.open_file(mapped)
        batches: Any = (reader.get_batch(number) for number in range(reader.num_record_batches))
    else:
        reader = batches = pyarrow.ipc.open_stream(mapped)
    return reader.schema, lambda names: (
        part for batch in batches for part in _parts(batch.select(names))
    )


def _parts(batch: Any) -> Iterator[Any]:
    """Split a batch, because one of `datasets` can have as many rows as the whole file."""
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)


def _has_bytes(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_nested(kind):
        return any(_has_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return bool(
        pyarrow.types.is_binary(kind)
        or pyarrow.types.is_large_binary(kind)
        or pyarrow.types.is_fixed_size_binary(kind)
    )


def _is_plain(kind: Any) -> bool:
    """Return whether values of a type are JSON values as pyarrow returns them."""
    import pyarrow

    types = pyarrow.types
    if types.is_map(kind) or types.is_struct(kind):
        return False
    if types.is_nested(kind):
        return all(_is_plain(kind.field(number).type) for number in range(kind.num_fields))
    plain = (
        *(types.is_boolean, types.is_integer, types.is_floating, types.is_null),
        *(types.is_string, types.is_large_string),
    )
    return any(check(kind) for check in plain)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (decimal.Decimal, uuid.UUID, datetime.timedelta)):
        return str(value)
    return value
