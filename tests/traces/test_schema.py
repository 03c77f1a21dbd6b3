"""The trace schema: valid traces, and the errors for invalid ones."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from operator import itemgetter
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tuneloop import jsonl
from tuneloop.errors import DataError
from tuneloop.traces.schema import ReasoningTrace, StoredTrace, build_trace, parse_trace

Make = Callable[..., dict[str, Any]]


def step(i: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"i": i, "type": "t", "content": "c", **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"trace_version": "v" * 64},
        {"prompt": "p" * 50_000},
        {"prompt": "👩‍👩‍👧" * 1000},
        {"final_answer": "f" * 50_000},
        {"steps": [step(i) for i in range(1000)]},
        {"steps": [step(7), step(3)]},
        {"steps": [step(0, type="t" * 64, content="c" * 20_000)]},
        {"meta": None},
        {"meta": {"nested": {"list": [1, 2.5, None, True, "x"]}}},
        {"trace_version": "1.1", "steps": []},
        {"steps": [step(type="tool_result", content="")]},
        {"steps": [step(type="tool_call", name="f", call_id="c")], "final_answer": ""},
        {"system": "s" * 50_000, "reward": -1, "labels": {"good": True}},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
)
def test_accepts_up_to_the_limits(make_trace: Make, fields: dict[str, Any]) -> None:
    assert ReasoningTrace.model_validate(make_trace(**fields))


ANSWER = ("final_answer",)
USER = ("messages", 0, "user")


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"trace_version": ""}, ("trace_version",)),
        ({"trace_version": "v" * 65}, ("trace_version",)),
        ({"prompt": "p" * 50_001}, ("prompt",)),
        ({"prompt": 5}, ("prompt",)),
        ({"prompt": "a\x00b"}, ("prompt",)),
        ({"prompt": "a\ud800b"}, ("prompt",)),
        ({"final_answer": ""}, ("final_answer",)),
        ({"steps": []}, ("steps",)),
        ({"steps": [step(i) for i in range(1001)]}, ("steps",)),
        ({"steps": [step(1), step(1)]}, ("steps",)),
        ({"steps": [step(-1)]}, ("steps", 0, "i")),
        ({"steps": [step(0.5)]}, ("steps", 0, "i")),
        ({"steps": [step(), step(1, content="")]}, ("steps", 1, "content")),
        ({"steps": [step(content="a\x00")]}, ("steps", 0, "content")),
        ({"steps": [step(type="tool_call")], "trace_version": "1.1"}, ("steps",)),
        ({"steps": [step(2, type="tool_call", name="f"), step(3)], "final_answer": ""}, ANSWER),
        ({"steps": [step(name="")]}, ("steps", 0, "name")),
        ({"system": ""}, ("system",)),
        ({"reward": float("inf")}, ("reward",)),
        ({"labels": [1]}, ("labels",)),
        ({"messages": []}, ("messages",)),
        ({"messages": [{"role": "system", "content": "x"}]}, ("messages", 0)),
        ({"messages": [{"role": "user", "content": "x", "reasoning": "r"}]}, (*USER, "reasoning")),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, (*USER, "name")),
        ({"tools": ["f"]}, ("tools", 0)),
        ({"meta": []}, ("meta",)),
        ({"meta": {"x": float("nan")}}, ("meta",)),
        ({"meta": {"x": [float("-inf")]}}, ("meta",)),
        ({"meta": {"x": {"y\x00": 1}}}, ("meta",)),
        ({"meta": {"\udfff": 1}}, ("meta",)),
        ({"meta": {"x": ["\ud800"]}}, ("meta",)),
    ],
)
def test_refuses_beyond_the_limits(
    make_trace: Make, fields: dict[str, Any], where: tuple[Any, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        ReasoningTrace.model_validate(make_trace(**fields))
    assert caught.value.errors()[0]["loc"] == where


def test_says_that_indices_must_be_unique(make_trace: Make) -> None:
    with pytest.raises(ValidationError, match="Value error, Step indices must be unique"):
        ReasoningTrace.model_validate(make_trace(steps=[step(2), step(2)]))


def test_numbers_are_read_as_leniently_as_ever_and_unknown_fields_dropped(
    make_trace: Make,
) -> None:
    trace = ReasoningTrace.model_validate(make_trace(steps=[step("3"), step(4.0)], extra=1))
    assert [one.i for one in trace.steps] == [3, 4]
    assert "extra" not in trace.model_dump()


def test_steps_are_kept_as_sent(make_trace: Make) -> None:
    trace = ReasoningTrace.model_validate(make_trace(steps=[step(9), step(2), step(5)]))
    assert [one.i for one in trace.steps] == [9, 2, 5]


@pytest.mark.parametrize("deep", [65, 500])
def test_refuses_deep_nesting(make_trace: Make, deep: int) -> None:
    meta: dict[str, Any] = {}
    for _ in range(deep):
        meta = {"m": meta}
    with pytest.raises(ValidationError, match="nested deeper than 64"):
        ReasoningTrace.model_validate(make_trace(meta=meta))


def test_parse_trace_says_file_line_and_field(make_trace: Make) -> None:
    with pytest.raises(DataError) as caught:
        parse_trace(make_trace(steps=[step(1), step(1)]), "traces.jsonl", 12)
    sentence = str(caught.value)
    assert sentence.startswith("traces.jsonl:12: steps is ")
    assert sentence.endswith("Step indices must be unique; fix the line")
    assert "\n" not in sentence


def test_a_built_trace_has_every_field_and_is_valid() -> None:
    built = build_trace("p", ["a", "b"], "f", meta={"source": "test"}, step_type="think")
    trace = parse_trace(built, "x", 1)
    assert trace.model_dump() == built
    assert [(s.i, s.type, s.content) for s in trace.steps] == [(0, "think", "a"), (1, "think", "b")]


def test_a_built_trace_has_the_version_that_it_needs() -> None:
    assert build_trace("p", [], "f")["trace_version"] == "1.1"
    assert build_trace("p", ["a"], "f", reward=None)["trace_version"] == "1.0"
    assert build_trace("p", ["a"], "f", reward=0.0)["trace_version"] == "1.1"
    call = {"type": "tool_call", "content": "{}", "name": "f"}
    built = build_trace("p", [call], "", system="s")
    assert built["trace_version"] == "1.1"
    assert parse_trace(built, "x", 1).model_dump() == built


def test_a_stored_time_is_written_in_utc_with_z_and_microseconds(make_trace: Make) -> None:
    trace = ReasoningTrace.model_validate(make_trace())
    moment = datetime(2026, 11, 22, 13, 0, tzinfo=timezone(timedelta(hours=2)))
    stored = StoredTrace(id=UUID(int=1), created_at=moment, trace=trace)
    assert json.loads(stored.model_dump_json())["created_at"] == "2026-11-22T11:00:00.000000Z"
    with pytest.raises(ValidationError, match="timezone"):
        StoredTrace(id=UUID(int=1), created_at=datetime(2026, 1, 1), trace=trace)
    assert stored.created_at.astimezone(UTC).hour == 11


texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"),
        st.sampled_from('שלוםمرحبا👩🏽\u200d🚀\u2028\ufeff\u202e"\\\n'),
    ),
    min_size=1,
    max_size=30,
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
sent_traces = st.fixed_dictionaries(
    {
        "trace_version": st.text(string.printable, min_size=1, max_size=5),
        "prompt": texts,
        "final_answer": texts,
        "steps": st.lists(
            st.fixed_dictionaries(
                {"i": st.integers(0, 2**63 - 1), "type": texts, "content": texts}
            ),
            min_size=1,
            max_size=4,
            unique_by=itemgetter("i"),  # type: ignore[arg-type]
        ),
        "meta": st.none() | st.dictionaries(texts, values, max_size=3),
    }
)


@settings(max_examples=60, deadline=None)
@given(sent_traces)
def test_what_is_accepted_comes_back_unchanged(sent: dict[str, Any]) -> None:
    trace = ReasoningTrace.model_validate(sent)
    line = jsonl.dump_line(trace.model_dump())
    assert jsonl.parse_line(line, "x", 1) == sent
    assert ReasoningTrace.model_validate_json(line) == trace
