"""Strict JSON Lines: valid and invalid input, and canonical output."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import DataError
from tuneloop.jsonl import dump_line, iter_jsonl, parse_line

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)


def read(data: bytes) -> list[tuple[int, dict[str, Any]]]:
    return list(iter_jsonl(io.BytesIO(data), "d/x.jsonl"))


@given(st.lists(OBJECTS, max_size=4))
def test_what_is_written_is_read_back(objects: list[dict[str, Any]]) -> None:
    assert read(b"".join(map(dump_line, objects))) == list(enumerate(objects, start=1))


@given(OBJECTS)
def test_bytes_do_not_depend_on_key_order(value: dict[str, Any]) -> None:
    assert dump_line(value) == dump_line(dict(reversed(value.items())))


@given(OBJECTS)
def test_one_object_is_one_line(value: dict[str, Any]) -> None:
    line = dump_line(value)
    assert line.count(b"\n") == 1
    assert line.endswith(b"}\n")


@given(st.binary())
def test_any_bytes_are_read_or_refused_with_a_place(data: bytes) -> None:
    try:
        read(data)
    except DataError as error:
        assert str(error).startswith("d/x.jsonl:")


def test_written_form() -> None:
    value = {"b": "é “1”\u2028", "a": [1, 1.5, None, True, {"z": "\n", "y": {}}]}
    expected = '{"a":[1,1.5,null,true,{"y":{},"z":"\\n"}],"b":"é “1”\u2028"}\n'
    assert dump_line(value) == expected.encode()


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": [float("-inf")]}, {"a": "\ud800"}])
def test_dump_refuses_what_no_strict_reader_takes(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        dump_line(value)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1}\n{"a":2}\n',
        b'{"a":1}\n{"a":2}',
        b'\xef\xbb\xbf{"a":1}\r\n{"a":2}\r\n',
        b' {"a" : 1} \t\n{"a":2}\n\n \r\n\t\n',
    ],
    ids=["plain", "no last line feed", "bom and crlf", "white space"],
)
def test_tolerated_forms(data: bytes) -> None:
    assert read(data) == [(1, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n \n"])
def test_nothing_to_read(data: bytes) -> None:
    assert read(data) == []


def test_blank_lines_are_counted() -> None:
    assert read(b'\n\n{"a":1}\n\n{"a":2}\n') == [(3, {"a": 1}), (5, {"a": 2})]


def test_line_separators_inside_strings_are_text() -> None:
    assert read('{"a":"x\u2028y\u2029z\x85"}\n'.encode()) == [(1, {"a": "x\u2028y\u2029z\x85"})]


def test_surrogate_pairs_are_one_character() -> None:
    assert read(rb'{"a":"\ud83d\ude00 \\ud800"}') == [(1, {"a": "😀 \\ud800"})]


REFUSED = {
    "no quotes": (b"{a:1}", "broken JSON (Expecting property name enclosed in double quotes"),
    "cut off": (b'{"a":', "broken JSON (Expecting value at column 6), expected one JSON object"),
    "two objects": (b'{"a":1}{"a":2}', "broken JSON (Extra data at column 8)"),
    "bom later": (b'\xef\xbb\xbf{"a":1}', "broken JSON (Unexpected UTF-8 BOM"),
    "raw control": (b'{"a":"\t"}', "broken JSON (Invalid control character at"),
    "list": (b"[1]", "found a list, expected one JSON object per line; fix the line"),
    "number": (b"3", "found a number, expected one JSON object"),
    "boolean": (b"true", "found a boolean, expected one JSON object"),
    "string": (b'"x"', "found a string, expected one JSON object"),
    "null": (b"null", "found null, expected one JSON object"),
    "nan": (b'{"a":NaN}', "found NaN, expected a finite number; write a number or null"),
    "infinity": (b'{"a":[-Infinity]}', "found -Infinity, expected a finite number"),
    "overflow": (b'{"a":1e999}', "found 1e999, expected a number that fits 64-bit floating point"),
    "digits": (b'{"a":' + b"1" * 5000 + b"}", "found an integer with thousands of digits"),
    "nested": (b'{"a":' + b"[" * 200_000, "found JSON nested too deeply to read"),
    "key twice": (b'{"a":1,"a":2}', "found the key 'a' twice, expected it once"),
    "key twice below": (b'{"a":[{"b":1,"b":1}]}', "found the key 'b' twice"),
    "latin-1": (b'{"a":"\xe9"}', "byte 0xe9 at position 7 is not UTF-8, expected UTF-8 text"),
    "utf-8 surrogate": (b'{"a":"\xed\xa0\x80"}', "byte 0xed at position 7 is not UTF-8"),
    "lone high": (rb'{"a":["\ud800x"]}', r"found the lone surrogate \ud800 in a string"),
    "lone low": (rb'{"a":{"b":"\uDC01"}}', r"found the lone surrogate \udc01 in a string"),
    "lone in key": (rb'{"\uDfff":1}', r"found the lone surrogate \udfff in a string"),
}


@pytest.mark.parametrize(("line", "what"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(line: bytes, what: str) -> None:
    lines = iter_jsonl(io.BytesIO(b'{"a":1}\r\n\r\n' + line + b"\n"), "d/x.jsonl")
    assert next(lines) == (1, {"a": 1})
    with pytest.raises(DataError) as caught:
        next(lines)
    message = str(caught.value)
    assert message.startswith(f"d/x.jsonl:3: {what}")
    assert "expected" in message and "; " in message and "\n" not in message
    assert message.isprintable()


def test_a_caller_can_go_on_after_a_bad_line() -> None:
    with pytest.raises(DataError, match=r"^x:7: broken JSON"):
        parse_line(b"{\n", "x", 7)
    assert parse_line(b'{"a":1}\n', "x", 8) == {"a": 1}
    assert parse_line(b" \r\n", "x", 9) is None


def test_a_key_twice_among_very_many_is_found_in_linear_time() -> None:
    """A search for each key took a minute for half a megabyte."""
    keys = ",".join(f'"k{number}":1' for number in range(40_000))
    since = time.perf_counter()
    with pytest.raises(DataError, match=r"^x:1: found the key 'k39999' twice"):
        parse_line(f'{{{keys},"k39999":2}}'.encode(), "x", 1)
    assert time.perf_counter() - since < 5
