"""Rows of CSV and TSV files (RFC 4180) with a header; every value is text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import chain

from tuneloop.errors import DataError
from tuneloop.file_kinds import not_text
from tuneloop.settings.limits import input_limits, raise_with
from tuneloop.storage.rows.compression import BlockReader
from tuneloop.storage.rows.row import Row

_DELIMITERS = {";": "semicolons", "\t": "tsv", ",": "csv"}
"""Character between two values -> the type of file to name for it."""


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
    bounded = _Bounded(chain((first,), blocks), place)
    csv.field_size_limit(bounded.most)
    file = io.TextIOWrapper(
        io.BufferedReader(BlockReader(bounded.blocks())), "utf-8-sig", newline=""
    )
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    try:
        header = next(reader, [])
        _check_header(header, place, delimiter)
        line = bounded.next_line = reader.line_num + 1
        for values in reader:
            where, line = f"{place}:{line}", reader.line_num + 1
            bounded.next_line, bounded.held = line, 0
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


class _Bounded:
    """Blocks of a CSV file, and how many bytes were read for the record that is being read.

    A quote that is never closed would otherwise make one record of the rest of the file.
    """

    def __init__(self, blocks: Iterator[bytes], place: str) -> None:
        self._blocks, self._place = blocks, place
        self.most = input_limits().line_bytes
        self.next_line = 1
        self.held = 0

    def blocks(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.held += len(block)
            if self.held > self.most + len(block):  # the block also holds the record before
                raise DataError(
                    f"{self._place}:{self.next_line}: the record has more than {self.most:,} bytes,"
                    " expected less; check that its quotes match,"
                    f" {raise_with('line_bytes')}"
                )
            yield block


def _check_header(header: list[str], place: str, delimiter: str) -> None:
    if not header:
        raise DataError(f"{place}: has no first line, expected a header with names; add one")
    other = next((mark for mark in _DELIMITERS if mark in header[0]), None)
    if len(header) == 1 and other is not None:
        raise DataError(
            f"{place}: the header is one column, {header[0][:60]!r}, expected several that are"
            f" separated by {delimiter!r}; if the values are separated by {other!r}, add"
            f" --file-type {_DELIMITERS[other]}"
        )
    if not all(header):
        raise DataError(
            f"{place}: the header has no name for column {header.index('') + 1}, expected one for"
            " each column; name the column, or write the table without its index"
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(
            f"{place}: the header has the column {twice!r} twice, expected it once; rename one"
        )
