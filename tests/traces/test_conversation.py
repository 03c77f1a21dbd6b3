"""Conversations become traces, and come back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.traces.conversation import Message, trace_of_conversation, turn_messages
from tuneloop.traces.schema import ReasoningTrace, prompt_key

texts = st.sampled_from(["a", "سلام", "👩‍👩‍👧 b", "<think>", "x\r\ny", "line\nline"])
calls = st.builds(
    lambda name, number: {"name": name, "arguments": f'{{"n": {number}}}', "id": f"call_{number}"},
    st.sampled_from(["add", "søk"]),
    st.integers(0, 9),
)
assistants = st.builds(
    lambda reasoning, content, made: {
        "role": "assistant",
        "content": content,
        **({"reasoning": reasoning} if reasoning else {}),
        **({"tool_calls": made} if made else {}),
    },
    st.none() | texts,
    texts | st.just(""),
    st.lists(calls, max_size=3),
)


def results(of: Message) -> list[Message]:
    return [
        {"role": "tool", "content": "", "tool_call_id": call["id"], "name": call["name"]}
        for call in of.get("tool_calls", ())
    ]


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    said: list[Message] = []
    for _ in range(draw(st.integers(1, 3))):
        said.append({"role": "user", "content": draw(texts)})
        for _ in range(draw(st.integers(0, 3))):
            between = draw(assistants.filter(lambda one: "tool_calls" in one))
            said += [between, *results(between)]
        said.append(draw(assistants.filter(lambda one: one["content"] or "tool_calls" in one)))
        if "tool_calls" in said[-1] and draw(st.booleans()):
            said += results(said[-1])
            said.append({"role": "assistant", "content": draw(texts)})
    return said


@settings(max_examples=300, deadline=None)
@given(conversations(), st.none() | texts)
def test_a_conversation_comes_back(said: list[Message], system: str | None) -> None:
    trace = ReasoningTrace.model_validate(trace_of_conversation(said, system=system))
    dumped = trace.model_dump()
    user = {"role": "user", "content": trace.prompt}
    back = [*dumped.get("messages", []), user, *turn_messages(trace.steps, trace.final_answer)]
    assert back == said
    assert trace.system == system


def test_reasoning_in_several_steps_is_one_text() -> None:
    trace = ReasoningTrace.model_validate(
        {
            "trace_version": "1.0",
            "prompt": "p",
            "final_answer": "f",
            "steps": [{"i": n, "type": "t", "content": c} for n, c in enumerate("ab")],
        }
    )
    assert turn_messages(trace.steps, trace.final_answer) == [
        {"role": "assistant", "content": "f", "reasoning": "a\n\nb"}
    ]


def said(*roles: str, **last: Any) -> list[Message]:
    messages: list[Message] = [{"role": role, "content": "x"} for role in roles]
    messages[-1] |= last
    return messages


CALL = {"tool_calls": [{"name": "f", "arguments": "{}"}]}


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (said("assistant"), "has no message of a user"),
        (said("user"), "ends with a message of user"),
        (said("user", "assistant", "tool"), "ends with a message of tool"),
        (said("user", "assistant", content=""), "with no text, expected an answer"),
        (
            [
                *said("user", "assistant", **CALL, content=""),
                *said("assistant", **CALL, content=""),
            ],
            "two messages of the assistant in a row",
        ),
        (
            [*said("user", "assistant"), *said("assistant", **CALL, content="")],
            "two messages of the assistant in a row",
        ),
    ],
)
def test_what_a_trace_cannot_hold_is_refused(messages: list[Message], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        trace_of_conversation(messages)


def test_prompts_with_another_history_differ() -> None:
    assert prompt_key("p") != prompt_key("p", "s")
    assert prompt_key("p") != prompt_key("p", None, said("user"))
    assert prompt_key("p", None, []) == prompt_key("p")
