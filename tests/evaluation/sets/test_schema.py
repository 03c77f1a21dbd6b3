"""Eval sets: valid files, and the error for each kind of invalid line."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tuneloop import jsonl
from tuneloop.artifacts.evaluation.eval_samples import Context, dump_row, load_samples
from tuneloop.errors import DataError
from tuneloop.evaluation.sets.schema import (
    EvalItem,
    dump_eval_set,
    parse_eval_set,
    problems,
    prompts_sha256,
    read_eval_set,
)

HEADER_ROW = b'{"kind":"set","name":"sums","sha256":"0","scorer":"exact"}'
PLACE = "eval/x.jsonl"
ITEM: dict[str, Any] = {
    "id": "a",
    "prompt": "What is 1 + 1?",
    "expected_answer": "2",
    "accepted_answers": ["two"],
    "category": "arithmetic",
    "difficulty": "easy",
}
HEADER = {"eval_set": {"name": "sums", "version": "2.1"}}
OTHER = ITEM | {"id": "b", "prompt": "What is 1 + 2?", "expected_answer": "3"}

TEXT = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    min_size=1,
    max_size=40,
).filter(lambda text: bool(text.strip()))
ITEMS = st.builds(
    EvalItem,
    id=TEXT,
    prompt=TEXT,
    expected_answer=TEXT,
    accepted_answers=st.lists(TEXT, max_size=3).map(tuple),
    category=TEXT,
    difficulty=st.sampled_from(["easy", "medium", "hard"]),
)


def lines(*items: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(item, ensure_ascii=False).encode() + b"\n" for item in items)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in OTHER.items() if name != key}


def test_reads_items_in_file_order() -> None:
    first, second = parse_eval_set(lines(OTHER, ITEM), PLACE)
    assert (first.id, second.id) == ("b", "a")
    assert second.accepted_answers == ("two",)
    assert second.model_dump(mode="json", exclude_defaults=True) == ITEM


def test_accepted_answers_may_be_left_out() -> None:
    (item,) = parse_eval_set(lines(without("accepted_answers")), PLACE)
    assert item.accepted_answers == ()


def test_a_set_may_state_its_name_and_version_and_items_their_own_scorer() -> None:
    extra: dict[str, Any] = {
        "group": "text 7 \N{COLLISION SYMBOL}",
        "scorer": {"kind": "numeric", "tolerance": 0.5},
        "meta": {"source": ["a", {"page": 3}], "note": None},
    }
    found = read_eval_set(
        b"\xef\xbb\xbf" + lines(HEADER, ITEM, without("difficulty") | extra), PLACE
    )
    assert found.header is not None
    assert (found.header.name, found.header.version) == ("sums", "2.1")
    assert found.items[1].model_dump(mode="json", include=set(extra)) == extra
    assert found.items[1].difficulty is None
    assert read_eval_set(dump_eval_set(found.items, found.header), PLACE) == found
    assert read_eval_set(lines(ITEM), PLACE).header is None
    what = "names the set, expected that only before the first item; remove or move the line"
    assert problems(lines(HEADER, HEADER, ITEM, HEADER), PLACE) == [
        *(f"{PLACE}:{number}: {what}" for number in (2, 4))
    ]


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ({"name": "a"}, "eval_set.version is missing"),
        ({"name": "a/b", "version": "1"}, "eval_set.name is 'a/b', expected"),
        ({"name": "a", "version": 1}, "eval_set.version is 1, expected a valid string"),
        ({"name": "a", "version": "1", "x": 1}, "eval_set.x is an unknown key"),
        ("a", "eval_set is 'a', expected"),
    ],
)
def test_refused_headers(header: Any, what: str) -> None:
    (found,) = problems(lines({"eval_set": header}, ITEM), PLACE)
    assert found.startswith(f"{PLACE}:1: {what}")


@given(st.lists(ITEMS, min_size=1, max_size=4))
def test_round_trip(items: list[EvalItem]) -> None:
    numbered = [
        item.model_copy(update={"id": f"{number}", "prompt": f"{number}: {item.prompt}"})
        for number, item in enumerate(items)
    ]
    data = lines(*(item.model_dump(mode="json") for item in numbered))
    assert parse_eval_set(data, PLACE) == tuple(numbered)
    assert problems(data, PLACE) == []


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    found = problems(data, PLACE)
    assert found
    assert all(sentence.startswith(PLACE) for sentence in found)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + lines(ITEM, OTHER),
        lines(ITEM, OTHER).replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + lines(ITEM, OTHER).replace(b"\n", b"\r\n\r\n"),
        b"\n \t\n" + lines(ITEM) + b"\n" + lines(OTHER).rstrip() + b"\n\n",
        lines(ITEM, OTHER).rstrip(),
    ],
    ids=["bom", "crlf", "all at once", "blank lines", "no last line feed"],
)
def test_tolerated_forms(data: bytes) -> None:
    assert parse_eval_set(data, PLACE) == parse_eval_set(lines(ITEM, OTHER), PLACE)


def test_items_cannot_change() -> None:
    (item,) = parse_eval_set(lines(ITEM), PLACE)
    for name in ITEM:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(item, name, "c")


CHAT: dict[str, Any] = {
    "system": "Be brief \u202e🟡",
    "messages": [
        {"role": "user", "content": "a\r\n"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "look", "arguments": "{}", "id": "1"}],
        },
        {"role": "tool", "content": "<end_of_turn>", "tool_call_id": "1"},
        {"role": "assistant", "content": "b"},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "x": [1.5, None]}}],
    "bare_answer": True,
}


def test_an_item_can_be_part_of_a_conversation() -> None:
    (item,) = parse_eval_set(lines(ITEM | CHAT), PLACE)
    assert json.loads(dump_eval_set([item])) == ITEM | CHAT | {"case_sensitive": False}
    row = item.to_item("sums")
    assert row.bare_answer is True
    messages, tools = tuple(CHAT["messages"]), tuple(CHAT["tools"])
    assert row.context == Context(system=CHAT["system"], messages=messages, tools=tools)
    line = dump_row(row)
    assert load_samples([HEADER_ROW, line], "x").items["sums", "a"] == row
    plain = dump_row(parse_eval_set(lines(ITEM), PLACE)[0].to_item("sums"))
    assert not set(CHAT) & set(json.loads(plain))


def test_items_without_a_conversation_keep_their_bytes_and_digests() -> None:
    items = parse_eval_set(lines(ITEM), PLACE)
    assert dump_eval_set(items) == lines(ITEM | {"case_sensitive": False})
    row = jsonl.dump_line({"id": ITEM["id"], "prompt": ITEM["prompt"]})
    assert prompts_sha256(items) == hashlib.sha256(row).hexdigest()
    for name in ("system", "messages", "tools"):
        changed = parse_eval_set(lines(ITEM | {name: CHAT[name]}), PLACE)
        assert prompts_sha256(changed) != prompts_sha256(items)


def test_prompts_are_unique_with_what_is_before_them() -> None:
    again = ITEM | {"id": "b"}
    before = {name: CHAT[name] for name in ("system", "messages")}
    different = [ITEM, again | before, again | {"id": "c", "system": CHAT["system"]}]
    assert len(parse_eval_set(lines(*different), PLACE)) == 3
    repeated = lines(ITEM | before, again | before | {"system": CHAT["system"].upper()})
    assert "the prompt is already on line 1" in problems(repeated, PLACE)[0]
    (problem,) = problems(lines(ITEM | {"messages": [{"role": "system", "content": ""}]}), PLACE)
    assert "messages.0.role is 'system', expected 'user' or 'assistant' or 'tool'" in problem


def test_fields_are_described() -> None:
    fields = EvalItem.model_fields
    assert set(fields) == {*ITEM, "case_sensitive", "group", "scorer", "meta", *CHAT}
    assert all(field.description for field in fields.values())


REFUSED_LINES = {
    "broken": (b'{"id": "b",', "broken JSON (Expecting property name"),
    "list": (b'["b"]', "found a list, expected one JSON object per line; fix the line"),
    "nan": (b'{"id":NaN}', "found NaN, expected a finite number; write a number or null"),
    "infinity": (b'{"id":Infinity}', "found Infinity, expected a finite number"),
    "utf-8": (b'{"id":"\xff"}', "byte 0xff at position 8 is not UTF-8, expected UTF-8 text"),
    "surrogate": (rb'{"id":"\ud800"}', r"found the lone surrogate \ud800 in a string, expected"),
    "key twice": (b'{"id":"b","id":"c"}', "found the key 'id' twice, expected it once"),
}


@pytest.mark.parametrize(("line", "what"), REFUSED_LINES.values(), ids=REFUSED_LINES.keys())
def test_refused_lines(line: bytes, what: str) -> None:
    data = lines(ITEM) + b"\n" + line + b"\n" + lines(OTHER)
    with pytest.raises(DataError) as caught:
        parse_eval_set(data, PLACE)
    assert str(caught.value).startswith(f"{PLACE}:3: {what}")
    assert problems(data, PLACE) == [str(caught.value)]


REFUSED_ITEMS = {
    "unknown key": (
        OTHER | {"answer": "3"},
        "answer is an unknown key, expected only keys of EvalItem",
    ),
    "missing id": (without("id"), "id is missing, expected every required key of EvalItem"),
    "missing prompt": (without("prompt"), "prompt is missing, expected every required key"),
    "missing answer": (without("expected_answer"), "expected_answer is missing, expected every"),
    "missing category": (without("category"), "category is missing, expected every required"),
    "blank group": (OTHER | {"group": " "}, "group is ' ', expected text that is not blank"),
    "meta is text": (OTHER | {"meta": "x"}, "meta is 'x', expected a valid dictionary"),
    "difficulty": (
        OTHER | {"difficulty": "impossible"},
        "difficulty is 'impossible', expected 'easy', 'medium' or 'hard'; fix the line",
    ),
    "answer is a number": (
        OTHER | {"expected_answer": 3},
        "expected_answer is 3, expected a valid string; fix the line",
    ),
    "prompt is null": (OTHER | {"prompt": None}, "prompt is None, expected a valid string"),
    "one accepted answer": (
        OTHER | {"accepted_answers": "three"},
        "accepted_answers is 'three', expected a valid tuple",
    ),
    "accepted number": (
        OTHER | {"accepted_answers": ["three", 3]},
        "accepted_answers.1 is 3, expected a valid string",
    ),
    "accepted blank": (
        OTHER | {"accepted_answers": [" "]},
        "accepted_answers.0 is ' ', expected text that is not blank",
    ),
    "empty id": (OTHER | {"id": ""}, "id is '', expected at least 1 character; fix the line"),
    "long id": (OTHER | {"id": "b" * 129}, "id is 'bbb"),
    "long prompt": (OTHER | {"prompt": "b" * 50_001}, "prompt is 'bbb"),
    "long category": (OTHER | {"category": "b" * 65}, "category is 'bbb"),
    "empty answer": (
        OTHER | {"expected_answer": ""},
        "expected_answer is '', expected at least 1 character",
    ),
    "blank answer": (
        OTHER | {"expected_answer": " \u00a0\n"},
        "expected_answer is ' \\xa0\\n', expected text that is not blank; fix the line",
    ),
}


@pytest.mark.parametrize(("item", "what"), REFUSED_ITEMS.values(), ids=REFUSED_ITEMS.keys())
def test_refused_items(item: dict[str, Any], what: str) -> None:
    data = b"\xef\xbb\xbf\r\n" + lines(ITEM, item)
    with pytest.raises(DataError) as caught:
        parse_eval_set(data, PLACE)
    message = str(caught.value)
    assert message.startswith(f"{PLACE}:3: {what}")
    assert message.endswith("; fix the line")
    assert len(message) < 200
    assert problems(data, PLACE) == [message]


def test_limits_are_inclusive() -> None:
    long = {"id": "b" * 128, "prompt": "b" * 50_000, "category": "b" * 64}
    assert len(parse_eval_set(lines(ITEM, OTHER | long), PLACE)) == 2


def test_duplicate_id_names_both_lines() -> None:
    data = lines(ITEM) + b"\n" + lines(OTHER | {"id": "a"})
    what = "id 'a' is already on line 1, expected unique ids; rename or remove one of the two"
    assert problems(data, PLACE) == [f"{PLACE}:3: {what}"]


@pytest.mark.parametrize(
    "prompt",
    ["What is 1 + 1?", "  what  IS\n1 + 1? ", "What\u00a0is 1 \uff0b 1\uff1f"],
    ids=["same", "case and white space", "width"],
)
def test_duplicate_prompt_names_both_lines(prompt: str) -> None:
    what = (
        "the prompt is already on line 2, expected unique prompts; reword or remove one of the two"
    )
    data = lines(OTHER, ITEM, ITEM | {"id": "c", "prompt": prompt})
    assert problems(data, PLACE) == [f"{PLACE}:3: {what}"]


def test_prompts_with_other_values_are_no_duplicates() -> None:
    said = ["10² = ?", "102 = ?", "½ + 1 = ?", "1/2 + 1 = ?", "x₁", "x1", "a - b", "a + b"]
    rows = [ITEM | {"id": str(number), "prompt": prompt} for number, prompt in enumerate(said)]
    found = problems(lines(*rows), PLACE)
    assert [each.split(",")[0] for each in found] == [
        f"{PLACE}:4: the prompt is already on line 3",
        f"{PLACE}:6: the prompt is already on line 5",
    ]


def test_the_first_of_three_is_named() -> None:
    found = problems(lines(ITEM, ITEM, ITEM), PLACE)
    assert [sentence.split(",")[0] for sentence in found] == [
        f"{PLACE}:2: id 'a' is already on line 1",
        f"{PLACE}:2: the prompt is already on line 1",
        f"{PLACE}:3: id 'a' is already on line 1",
        f"{PLACE}:3: the prompt is already on line 1",
    ]


@pytest.mark.parametrize("data", [b"", b"\n\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_empty_file(data: bytes) -> None:
    message = (
        f"{PLACE}: the file has no items, expected at least one JSON object; add one item per line"
    )
    with pytest.raises(DataError) as caught:
        parse_eval_set(data, PLACE)
    assert str(caught.value) == message
    assert problems(data, PLACE) == [message]


def test_the_first_problem_is_raised_with_the_count_of_the_rest() -> None:
    bad = OTHER | {"difficulty": "x", "category": "", "colour": 1}
    data = lines(ITEM) + b"{\n" + lines(bad)
    found = problems(data, PLACE)
    places = [f"{PLACE}:2", f"{PLACE}:3", f"{PLACE}:3", f"{PLACE}:3"]
    assert [sentence.partition(": ")[0] for sentence in found] == places
    with pytest.raises(DataError) as caught:
        parse_eval_set(data, PLACE)
    assert str(caught.value) == f"{found[0]} (3 more problems in this file)"
    with pytest.raises(DataError, match=r"\(1 more problem in this file\)$"):
        parse_eval_set(b"{\n{\n", PLACE)


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("guess", "scorer 'guess' is unknown, expected one of: choice, code, contains, exact, "),
        ({"kind": "numeric", "tolerance": -1}, "scorer.tolerance is -1, expected a value greater"),
        ({"kind": "numeric", "unit": "appels"}, "scorer.unit is 'appels', expected a unit, such"),
        ({"kind": "numeric", "locale": "xx"}, "scorer.locale is 'xx', expected the name of a loc"),
        ({"kind": "regex", "pattern": "("}, "scorer.pattern is '(', expected a regular expression"),
        ({"kind": "numeric", "digits": 3}, "scorer.digits is an unknown key, expected only keys "),
        ("numeric", "expected_answer is 'Paris', expected one number for the scorer numeric: "),
        ("choice", "expected answer 'Paris' is none of the choices, expected one of: a label"),
        ("a.py", "scorer 'a.py' is a file, expected a kind; name a file in the spec alone"),
        (
            {"kind": "json_schema", "schema": {"type": "x"}},
            "scorer.schema: expected a JSON Schema: 'x' is not valid",
        ),
    ],
)
def test_a_scorer_that_cannot_score_its_item_is_refused(scorer: object, message: str) -> None:
    data = lines(ITEM | {"expected_answer": "Paris", "scorer": scorer})
    assert problems(data, PLACE)[0].startswith(f"{PLACE}:1: {message}")
