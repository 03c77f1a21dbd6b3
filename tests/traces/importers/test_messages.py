"""Import of chat messages: text, reasoning, calls of tools, system messages and history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import DataError
from tuneloop.traces.importers.messages import trace_of_messages
from tuneloop.traces.importers.text import BLOCKS
from tuneloop.traces.response_text import render_response
from tuneloop.traces.schema import MAX_STEP_CHARACTERS, parse_trace
from tuneloop.training.export.formats import messages_record, prompt_completion_record
from tuneloop.training.schema import TrainingExample

EXAMPLE = TrainingExample(id="e", prompt="2 + 2?", response="Reasoning:\n1. add\nAnswer: 4")
ASKED = {"role": "user", "content": "2 + 2?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}


def said(content: Any = "4", **fields: Any) -> dict[str, Any]:
    return {"messages": [ASKED, {"role": "assistant", "content": content, **fields}]}


def made(record: dict[str, Any]) -> dict[str, Any]:
    trace = parse_trace(trace_of_messages(record, "f:1"), "f", 1)
    return trace.model_dump(mode="json")


def steps_of(trace: dict[str, Any]) -> list[tuple[str, str]]:
    return [(step["type"], step["content"]) for step in trace["steps"]]


@pytest.mark.parametrize(
    ("record", "steps", "answer", "meta"),
    [
        (messages_record(EXAMPLE), ["add"], "4", {"id": "e"}),
        (prompt_completion_record(EXAMPLE), ["add"], "4", {"id": "e"}),
        (said(), [], "4", None),
        (said(" 4\n"), [], " 4\n", None),
        (said("1. add\nAnswer: 4"), [], "1. add\nAnswer: 4", None),
        (said("Use <think> tags."), [], "Use <think> tags.", None),
        (said(reasoning_content="add"), ["add"], "4", None),
        (said(thinking=" add ", reasoning="add", tool_calls=[]), ["add"], "4", None),
        (said("<think>more</think>4", reasoning="add"), ["add", "more"], "4", None),
        (said(reasoning_content=[{"type": "text", "text": "add"}]), ["add"], "4", None),
        (said(reasoning=[{"type": "thinking", "thinking": "add"}]), ["add"], "4", None),
        (said(reasoning=None, refusal=None, function_call=None), [], "4", None),
        (said([{"type": "text", "text": "4"}, {"type": "text", "text": "!"}]), [], "4!", None),
        (
            said([{"type": "output_text", "text": "4", "annotations": [], "logprobs": None}]),
            [],
            "4",
            {"message_fields": {"1": {"content_fields": {"0": {"annotations": []}}}}},
        ),
        (
            said([{"type": "thinking", "thinking": "add"}, {"type": "text", "text": "4"}]),
            ["add"],
            "4",
            None,
        ),
        ({"prompt": "2 + 2?", "reasoning": "add", "completion": "4"}, ["add"], "4", None),
        ({"prompt": "2 + 2?", "response": "4", "n": 1}, [], "4", {"n": 1}),
        (said(name="bot"), [], "4", {"message_fields": {"1": {"name": "bot"}}}),
    ],
)  # fmt: skip
def test_records_of_other_tools_become_traces(
    record: dict[str, Any], steps: list[str], answer: str, meta: Any
) -> None:
    trace = made(record)
    assert (trace["prompt"], steps_of(trace)) == ("2 + 2?", [("reason", text) for text in steps])
    assert (trace["final_answer"], trace["meta"]) == (answer, meta)
    assert trace["trace_version"] == ("1.0" if steps else "1.1")


@pytest.mark.parametrize(("opening", "closing"), BLOCKS)
def test_every_block_of_reasoning_is_a_step(opening: str, closing: str) -> None:
    for text in (
        f"{opening}\nadd\n{closing}\n\n4",
        f"\n{opening}add{closing}4",
        f"add\n{closing}\n4",
    ):
        trace = made(said(text))
        assert (steps_of(trace), trace["final_answer"]) == ([("reason", "add")], "4")
    trace = made(said(f"{opening}\n\n{closing}\n\n4"))
    assert (steps_of(trace), trace["final_answer"]) == ([], "4")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{0}add", "opens {0} and never closes it"),
        ("Well. {0}add{1}4", "has text before {0}"),
        ("{0}a{1}b{0}c{1}d", "has more than one {0} or {1}"),
        ("a{1}b{1}c", "has more than one {0} or {1}"),
        ("{0}add{1}", "assistant with no text"),
        ("", "assistant with no text"),
    ],
)
def test_a_broken_block_is_refused(text: str, found: str) -> None:
    for opening, closing in BLOCKS:
        with pytest.raises(DataError, match=r"^f:7: ") as caught:
            trace_of_messages(said(text.format(opening, closing)), "f:7")
        assert found.format(opening, closing) in str(caught.value)


def test_the_solution_of_open_thoughts_is_the_answer() -> None:
    text = (
        "<|begin_of_thought|>\n\nadd\n\n<|end_of_thought|>\n\n"
        "<|begin_of_solution|>\n\n4\n\n<|end_of_solution|>"
    )
    trace = made(said(text))
    assert (steps_of(trace), trace["final_answer"]) == ([("reason", "add")], "4")


def test_history_system_and_tools_have_their_fields() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    record = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "reasoning_content": "greet"},
            ASKED,
            {"role": "assistant", "content": None, "reasoning": "call it", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "4"}]},
            {"role": "assistant", "content": "It is 4."},
        ],
        "tools": tools,
        "reward": 0.5,
        "labels": {"ok": True},
        "source": "chat",
    }
    assert made(record) == {
        "trace_version": "1.1",
        "prompt": "2 + 2?",
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello.", "reasoning": "greet"},
        ],
        "steps": [
            {"i": 0, "type": "reason", "content": "call it"},
            {"i": 1, "type": "tool_call", "content": '{"a": 2}', "name": "add", "call_id": "c1"},
            {"i": 2, "type": "tool_result", "content": "4", "call_id": "c1"},
        ],
        "final_answer": "It is 4.",
        "tools": tools,
        "reward": 0.5,
        "labels": {"ok": True},
        "meta": {"source": "chat"},
    }


def test_legacy_functions_are_tools() -> None:
    record = said(None, function_call={"name": "add", "arguments": {"a": "é"}})
    trace = made({**record, "functions": [{"name": "add", "description": "d"}]})
    assert trace["tools"] == [{"type": "function", "function": {"name": "add", "description": "d"}}]
    assert steps_of(trace) == [("tool_call", '{"a": "é"}')]
    assert trace["final_answer"] == ""


def test_messages_after_the_last_answer_are_kept_in_meta() -> None:
    record = said()
    record["messages"].append({"role": "user", "content": "Thanks!"})
    trace = made(record)
    assert (trace["prompt"], trace["final_answer"]) == ("2 + 2?", "4")
    assert trace["meta"] == {"trailing_messages": [{"role": "user", "content": "Thanks!"}]}


def test_reasoning_that_is_too_long_for_a_step_is_split_at_empty_lines() -> None:
    thoughts = "\n\n".join(f"{n} " + "x" * 9_000 for n in range(7))
    trace = made(said(reasoning_content=thoughts))
    assert "\n\n".join(step["content"] for step in trace["steps"]) == thoughts
    assert max(len(step["content"]) for step in trace["steps"]) <= MAX_STEP_CHARACTERS
    with pytest.raises(DataError, match=r"at most 20000 characters"):
        made(said(reasoning_content="x" * 20_001))


SYSTEM = {"role": "system", "content": "x"}


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"messages": [ASKED]}, "the conversation ends with a message of user"),
        ({"messages": []}, "has no message of a user"),
        ({"messages": 3}, "messages is 3, expected a list"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "message 1: found"),
        ({"messages": [SYSTEM, SYSTEM, *said()["messages"]]}, "message 2: is a second system"),
        ({"messages": [*said()["messages"], SYSTEM]}, "message 3: is a second system"),
        ({"messages": [{"role": "user", "content": 3}]}, "has the content 3, expected text"),
        (said([{"type": "image_url", "image_url": {}}]), "has the content part"),
        (said("4", reasoning=[{"type": "text", "text": "x", "y": 1}]), "has the reasoning [{"),
        (said("x", tool_calls=[{"id": "x"}]), "has the call {'id': 'x'}"),
        (said("x", tool_calls=[{**CALL, "type": "custom"}]), "expected a function"),
        (said() | {"tools": [3]}, "found the tool 3"),
        (said() | {"tools": "[{"}, "tools: broken JSON"),
        (said() | {"reward": "good"}, "reward is 'good', expected a number"),
        (said() | {"message_fields": 1} | {"messages": [{**ASKED, "x": 1}]}, "message_fields"),
        (said() | {"tuneloop": '{"x": 1}'}, "tuneloop is '{\"x\": 1}', expected what"),
        ({"text": "x"}, "found the keys ['text'], expected messages"),
        ({"prompt": "x", "completion": 3}, "completion is 3, expected text"),
        ({"prompt": "x"}, "expected prompt and one of completion and response"),
    ],
)
def test_what_a_trace_cannot_hold_is_refused(record: dict[str, Any], found: str) -> None:
    with pytest.raises(DataError, match=r"^f:7: ?") as caught:
        trace_of_messages(record, "f:7")
    assert found in str(caught.value)


LINE = st.text(
    alphabet=st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20
).filter(
    lambda t: t.strip() == t and "\u2060" not in t and not t.startswith("Answer:")
)  # fmt: skip


@given(steps=st.lists(LINE, min_size=1, max_size=5), answer=LINE)
def test_what_was_exported_comes_back(steps: list[str], answer: str) -> None:
    example = TrainingExample(id="e", prompt="p", response=render_response(steps, answer))
    trace = trace_of_messages(messages_record(example), "f:1")
    assert [step["content"] for step in trace["steps"]] == steps
    assert trace["final_answer"] == answer
