"""Rows of JSON files: JSON Lines, one array of objects, or one object over several lines.

The first bytes tell them apart: an array begins with `[`, and an object over several lines has `{`
alone on its first line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import msgspec
from msgspec import Raw

from tuneloop.errors import DataError
from tuneloop.jsonl import BOM, parse_line, parse_object
from tuneloop.settings.limits import input_limits, raise_with
from tuneloop.storage import lines
from tuneloop.storage.rows.row import Row
from tuneloop.validation import decode_error

_split = msgspec.json.Decoder(list[Raw]).decode
"""JSON array -> its elements as JSON, which are parts of the same buffer."""


def json_rows(blocks: Iterator[bytes], place: str) -> Iterator[Row]:
    """Read the objects of a JSON file.

    Args:
        blocks: the text of the file in UTF-8.
        place: path or URL of the file, for error messages.

    Yields:
        One row per object. A line or an element that is not a JSON object is a row with a problem.

    Raises:
        DataError: the file is not text, or is one document that is not JSON or too large.
    """
    found = lines.iter_lines(blocks, place)
    for number, line in enumerate(found, start=1):
        text = line.removeprefix(BOM).strip()
        if not text:
            continue
        whole = chain((line,), found)
        if text == b"{":
            yield _document(whole, place)
        elif text.startswith(b"["):
            yield from _array(whole, place)
        else:
            yield from _objects(whole, place, number)
        return


def _objects(found: Iterable[bytes], place: str, first: int) -> Iterator[Row]:
    for number, line in enumerate(found, start=first):
        where = f"{place}:{number}"
        try:
            value = parse_line(line, place, number)
        except DataError as e:
            if not str(e).startswith(where):  # about the whole file, such as its kind
                raise
            yield Row(where, None, str(e), _text(line))
        else:
            if value is not None:
                yield Row(where, value)


def _array(found: Iterable[bytes], place: str) -> Iterator[Row]:
    try:
        elements = _split(_joined(found, place).removeprefix(BOM))
    except ValueError as e:
        raise DataError(
            f"{place}: begins with [ and is not a JSON array ({decode_error(e)}); fix the file, or"
            " write one JSON object per line"
        ) from e
    except RecursionError as e:
        raise DataError(
            f"{place}: is a JSON array nested too deeply to read, expected an array of objects; use"
            " fewer levels"
        ) from e
    for number, element in enumerate(elements, start=1):
        where = f"{place}: element {number}"
        try:
            yield Row(where, parse_object(bytes(element), where))
        except DataError as e:
            yield Row(where, None, str(e), _text(bytes(element)))


def _document(found: Iterable[bytes], place: str) -> Row:
    return Row(place, parse_object(_joined(found, place).removeprefix(BOM), place))


def _joined(found: Iterable[bytes], place: str) -> bytes:
    most = input_limits().json_bytes
    parts, held = [], 0
    for line in found:
        parts.append(line)
        held += len(line)
        if held > most:
            raise DataError(
                f"{place}: is one JSON value of more than {most:,} bytes, expected less; write one"
                f" JSON object per line, {raise_with('json_bytes')}"
            )
    return b"".join(parts)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace").rstrip("\r\n")
