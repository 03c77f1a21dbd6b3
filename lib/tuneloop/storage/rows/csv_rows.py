"""Rows of CSV and TSV files (RFC 4180) with a header; every value is text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain

from tuneloop.errors import DataError
from tuneloop.file_kinds import not_text
from tuneloop.settings.limits import input_limits
from tuneloop.storage.rows.compression import BlockReader
from tuneloop.storage.rows.row import Row


def csv_rows(blocks: Iterator[bytes], place: str, delimiter: str = ",") -> Iterator[Row]:
    """Read the rows of a CSV file.

    Args:
        blocks: the text of the file in UTF-8, with or without a byte order mark.
        place: path or URL of the file, for error messages.
        delimiter: the character between two values.

    Yields:
        One row per record, with its first line as the place. A record with more or fewer values
        than the header is a row with a problem.

    Raises:
        DataError: the file is not UTF-8, its quotes do not match, or its header has an empty or
            repeated name.
    """
    first = next(blocks, b"")
    if (kind := not_text(first)) is not None:
        raise DataError(f"{place}: is {kind}, expected CSV in UTF-8; convert it first")
    csv.field_size_limit(input_limits().line_bytes)
    file = io.TextIOWrapper(
        io.BufferedReader(BlockReader(chain((first,), blocks))), "utf-8-sig", newline=""
    )
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        _check_header(header, place)
        line = reader.line_num + 1
        for values in reader:
            where, line = f"{place}:{line}", reader.line_num + 1
            if len(values) == len(header):
                yield Row(where, dict(zip(header, values, strict=True)))
            elif values:
                yield Row(
                    where,
                    None,
                    f"{where}: has {len(values)} values, expected {len(header)} as in the header;"
                    " fix the row, or quote the values that contain the delimiter",
                    delimiter.join(values),
                )
    except UnicodeDecodeError as e:
        raise DataError(
            f"{place}: after line {line} a byte is not UTF-8, expected UTF-8 text; save the file as"
            " UTF-8"
        ) from e
    except csv.Error as e:
        raise DataError(
            f"{place}:{line}: broken CSV ({e}), expected quotes that match and are doubled within a"
            " value; fix the row"
        ) from e


def _check_header(header: list[str], place: str) -> None:
    if not header or not all(header):
        raise DataError(
            f"{place}: the first line has no name for each column, expected a header; add one"
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(
            f"{place}: the header has the column {twice!r} twice, expected it once; rename one"
        )
