"""Strict reader and canonical writer for JSON Lines files with one object per line.

A line that JSON readers could understand in different ways is rejected with its line number. The
reader therefore rejects NaN, numbers that do not fit a double, duplicate keys and lone surrogates.
Only a line feed ends a line. U+2028 inside a string is text, so split bytes and never use
`str.splitlines`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import msgspec

from tuneloop.errors import DataError
from tuneloop.file_kinds import not_text

BOM = b"\xef\xbb\xbf"
"""Byte order mark of UTF-8, which some editors write at the start of a file."""
_encoder = msgspec.json.Encoder(order="deterministic")
_KINDS = {type(None): "null", bool: "a boolean", str: "a string", list: "a list"}


class _Refused(ValueError):
    """A fault in one line; its text becomes the part of the error message after the place."""


def iter_jsonl(data: Iterable[bytes], place: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read objects one by one, stopping at the first invalid line.

    A byte order mark on the first line, CRLF line ends, blank lines and a last line without a
    line feed are accepted.

    Args:
        data: lines as a binary file yields them; wrap bytes in `io.BytesIO`.
        place: path or URL of the file, used in error messages.

    Yields:
        The line number, counted from 1, and the object on that line.

    Raises:
        DataError: a line is not UTF-8, not strict JSON, or not an object.
    """
    for number, line in enumerate(data, start=1):
        value = parse_line(line, place, number)
        if value is not None:
            yield number, value


def parse_line(line: bytes, place: str, number: int) -> dict[str, Any] | None:
    """Read one line; for callers that continue after an invalid line.

    Args:
        line: the line, with or without its line end.
        place: path or URL of the file, used in error messages.
        number: the line number, counted from 1.

    Returns:
        The object, or None if the line is blank.

    Raises:
        DataError: the line is not UTF-8, not strict JSON, or not an object.
    """
    if number == 1:
        if (kind := not_text(line)) is not None:
            raise DataError(
                f"{place}: is {kind}, expected text with one JSON object per line; unpack or"
                " convert it first"
            )
        line = line.removeprefix(BOM)
    if not line.strip():
        return None
    return parse_object(line, f"{place}:{number}")


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Read one object, strictly.

    Args:
        data: JSON of the object in UTF-8.
        where: location of the object for error messages, as `FILE:line`.

    Raises:
        DataError: the data is not UTF-8, not strict JSON, or not an object.
    """
    value = _parsed(data, where, "one JSON object per line")
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "a number")
        raise DataError(f"{where}: found {kind}, expected one JSON object per line; fix the line")
    return value


def parse_value(data: bytes, where: str) -> Any:
    """Read one JSON value of any kind, strictly.

    Args:
        data: JSON in UTF-8.
        where: location of the value for error messages, as `FILE:line`.

    Raises:
        DataError: the data is not UTF-8, or not strict JSON.
    """
    return _parsed(data, where, "JSON text")


def _parsed(data: bytes, where: str, expected: str) -> Any:
    try:
        return _loads(data, expected)
    except _Refused as refused:
        raise DataError(f"{where}: {refused}") from None


def dump_line(value: Mapping[str, Any]) -> bytes:
    """Encode one object as one line; the order of its keys does not affect the bytes.

    Args:
        value: a JSON object; keys are strings at every depth.

    Returns:
        UTF-8 with sorted keys, no spaces, only the escapes that JSON requires, and one line feed.

    Raises:
        ValueError: a number is not finite, or a string contains a lone surrogate.
        TypeError: a value cannot be represented in JSON.
    """
    text = json.dumps(
        dict(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return text.encode("utf-8") + b"\n"


def encode_line(value: Any) -> bytes:
    """Encode one object to the same bytes as `dump_line`, but faster, for millions of rows.

    Args:
        value: a msgspec Struct with its fields declared in sorted order, or a dict. The values are
            strings, integers, null, `msgspec.Raw`, and lists and dicts of these. A float must be
            passed as the `msgspec.Raw` that it was read as, because 1e+16 would be written as 1e16.
    """
    return _encoder.encode(value) + b"\n"


def encode_lines(values: Sequence[Any]) -> bytes:
    """Encode many objects, each as `encode_line` does."""
    return _encoder.encode_lines(values)


def _loads(line: bytes, expected: str) -> Any:
    """Parse a line strictly and raise `_Refused` for every fault."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
        value = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except UnicodeDecodeError as error:
        raise _Refused(
            f"byte 0x{line[error.start]:02x} at position {error.start + 1} is not UTF-8, "
            "expected UTF-8 text; save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        line_of_text = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise _Refused(
            f"broken JSON ({error.msg} at {line_of_text}column {error.colno}), "
            f"expected {expected}; fix the line"
        ) from None
    except RecursionError:
        raise _Refused(
            "found JSON nested too deeply to read, expected an object; use fewer levels"
        ) from None
    except _Refused:
        raise
    except ValueError:  # from int(), for more than sys.get_int_max_str_digits() digits
        raise _Refused(
            "found an integer with thousands of digits, expected a number; write it as a string"
        ) from None
    if "\\ud" in text or "\\uD" in text:  # without an escape, valid UTF-8 has no lone surrogate
        _no_lone_surrogate(value)
    return value


def _no_constant(name: str) -> NoReturn:
    raise _Refused(f"found {name}, expected a finite number; write a number or null")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _Refused(
            f"found {digits[:60]}, expected a number that fits 64-bit floating point; "
            "write a smaller number"
        )
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        # The first key that occurs twice; a search for each key would take quadratic time.
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise _Refused(f"found the key {twice[:60]!r} twice, expected it once; remove one of them")
    return value


def _no_lone_surrogate(value: Any) -> None:
    """Search without recursion, so that any depth that the parser accepts can be searched."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, str):
            half = next((char for char in item if "\ud800" <= char <= "\udfff"), None)
            if half is not None:
                raise _Refused(
                    f"found the lone surrogate \\u{ord(half):04x} in a string, expected whole "
                    "characters; write both halves or the character itself"
                )
