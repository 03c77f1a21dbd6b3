"""YAML that is no plain value, or that its versions read differently, is refused with its line."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.errors import SpecError
from tuneloop.yaml_in import parse_mapping


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
    with pytest.raises(SpecError, match=r"^run\.yaml:\d+: holds more than 100,000 values"):
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


def test_a_large_file_without_aliases_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = ("a: [" + "1," * 2000 + "]").encode()
    parse_mapping(text, "run.yaml", "a run spec")
    monkeypatch.setenv("TUNELOOP_LIMIT_YAML_VALUES", "2000")
    with pytest.raises(SpecError, match=r"more than 2,000 values.*TUNELOOP_LIMIT_YAML_VALUES$"):
        parse_mapping(text, "run.yaml", "a run spec")


REFUSED = {  # the second line of a file -> what the error says
    "a: {{ run_name }}": "found a list or mapping as a key, expected a name; if it is a template",
    "? [a, b]\n: 1": "found a list or mapping as a key",
    "2026-01-01: 1": "found '2026-01-01' as a key, expected a name; quote it",
    "yes: 1": "found 'yes' as a key",
    "a: !!python/object:os.system x": "found the tag '!!python/object:os.system'",
    "a: !!binary YWJj": "found the tag '!!binary'",
    "a: !!set {b, c}": "found the tag '!!set'",
    "a: !mine {b: 1}": "found the tag '!mine'",
    "a: !!int x": "found x, which YAML versions read differently",
    f"a: {'9' * 5000}": "found a number of 5,000 digits, expected at most 18",
    "a: .inf": "found .inf, expected a finite decimal number",
    "a: [-.Inf, 1]": "found -.Inf, expected a finite decimal number",
    "a: 1:30.5": "found 1:30.5, expected a finite decimal number",
    "a: yes": "found yes, which YAML versions read differently, expected true or false",
    "a: [on]": "found on, which",
    "a: {b: No}": "found No, which",
    "a: 010": "found 010, which YAML versions read differently, expected a decimal number",
    "a: 08": "found 08, which",
    "a: 0o10": "found 0o10, which",
    "a: 0x10": "found 0x10, which",
    "a: 1_000": "found 1_000, which",
    "a: 1:30": "found 1:30, which",
    "<<: 3": "broken YAML (expected a mapping",
    f"a: {'[' * 101}{']' * 101}": "has more than 100 lists and mappings inside each other",
    f"a: {'[' * 100_000}": "has more than 100 lists and mappings inside each other",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_mapping(f"first: 1\n{text}\n".encode(), "run.yaml", "a run spec")
    line = 1 if text.startswith("<<") else 2
    assert str(caught.value).startswith(f"run.yaml:{line}: {REFUSED[text]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-01", "2026-01-01"),
        ("2026-99-99", "2026-99-99"),
        ("=", "="),
        ("'yes'", "yes"),
        ('"010"', "010"),
        ("!!str 1:30", "1:30"),
        ("True", True),
        ("-3", -3),
        ("0", 0),
        ("1.5e+3", 1500.0),
        (".5", 0.5),
        ("~", None),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    assert parse_mapping(f"a: {text}".encode(), "run.yaml", "a run spec")[0] == {"a": value}


def test_spellings_of_kubernetes() -> None:
    text = b"defaultMode: 0400\nhostIPC: no\n"
    value, _ = parse_mapping(text, "pod.yaml", "a pod", is_kubernetes=True)
    assert value == {"defaultMode": 0o400, "hostIPC": False}


JUNK = st.text(
    st.sampled_from(list("ab01289 :-_.,?!&*{}[]<>=~'\"#|%@`\n\t+eEx/yno\u0085\U0001f600"))
)


@settings(deadline=None, max_examples=150)
@given(JUNK)
def test_any_text_is_a_value_or_an_error_with_its_line(text: str) -> None:
    try:
        value, _ = parse_mapping(f"a: {text}".encode(), "run.yaml", "a run spec")
    except SpecError as e:
        assert re.match(r"run\.yaml:\d+: ", str(e))
    else:
        json.dumps(value, allow_nan=False)
