"""YAML whose aliases expand to very many values is refused at once, with its line."""

from __future__ import annotations

import time

import pytest

from tuneloop.errors import SpecError
from tuneloop.yaml_in import MAX_VALUES, parse_mapping


def laughs(levels: int, width: int = 9) -> str:
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        laughs(9),
        laughs(40, 2),
        laughs(30, 2).replace("[x]", "{x: 1}").replace("[*", "{<<: [*").replace("]", "]}"),
        laughs(9).replace("[x]", "{x: 1}"),
    ],
)
def test_a_bomb_of_aliases(text: str) -> None:
    since = time.perf_counter()
    with pytest.raises(SpecError, match=r"^run\.yaml:\d+: stands for more than 100,000 values"):
        parse_mapping(text.encode(), "run.yaml", "a run spec")
    assert time.perf_counter() - since < 2


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a {b: {c: *a}}", "&r a: 1\nb: &b {b: *b}"])
def test_a_value_that_contains_itself(text: str) -> None:
    with pytest.raises(SpecError, match=r"^run\.yaml:\d+: found an alias to a value that contains"):
        parse_mapping(text.encode(), "run.yaml", "a run spec")


def test_a_few_aliases_are_values() -> None:
    text = b"a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n"
    value, _ = parse_mapping(text, "run.yaml", "a run spec")
    assert value == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": {"x": [1, 2], "y": 3}}


def test_a_large_file_without_aliases_is_counted_too() -> None:
    text = "a: [" + "1," * (MAX_VALUES + 1) + "]"
    with pytest.raises(SpecError, match="stands for more than"):
        parse_mapping(text.encode(), "run.yaml", "a run spec")
