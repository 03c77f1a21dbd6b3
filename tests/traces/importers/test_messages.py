from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.errors import DataError
from tuneloop.traces.importers.messages import trace_of_record
from tuneloop.traces.response_text import render_response
from tuneloop.traces.schema import parse_trace
from tuneloop.training.export.formats import messages_record, prompt_completion_record
from tuneloop.training.schema import TrainingExample

SAID = {"from": "human", "value": "2 + 2?"}
EXAMPLE = TrainingExample(id="e", prompt="2 + 2?", response="Reasoning:\n1. add\nAnswer: 4")


def turns(*said: str, **system: str) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(said)
    first = [{"role": "system", "content": system["system"]}] if system else []
    return {
        "messages": first + [{"role": r, "content": c} for r, c in zip(roles, said, strict=False)]
    }


def reasoned(content: str = "4", **fields: Any) -> dict[str, Any]:
    record = turns("2 + 2?", content)
    record["messages"][1].update(fields)
    return record


_WHOLE = (["<think>add</think>"], "<think>add</think>", None)


@pytest.mark.parametrize(
    ("record", "steps", "answer", "meta"),
    [
        (messages_record(EXAMPLE), ["add"], "4", {"id": "e"}),
        (prompt_completion_record(EXAMPLE), ["add"], "4", {"id": "e"}),
        (turns("2 + 2?", "<think>\nadd\n</think>\n\n4"), ["add"], "4", None),
        (turns("2 + 2?", "It is 4."), ["It is 4."], "It is 4.", None),
        (turns("2 + 2?", "<thinking>add</thinking>4"), ["add"], "4", None),
        (turns("2 + 2?", "add\n</think>\n\n4"), ["add"], "4", None),
        (turns("2 + 2?", "<think>\n\n</think>\n\n4"), ["4"], "4", None),
        (turns("2 + 2?", "<think>add</think>"), *_WHOLE),
        (reasoned(reasoning_content="add"), ["add"], "4", None),
        (reasoned(thinking=" add ", reasoning="add", tool_calls=[]), ["add"], "4", None),
        (reasoned("<think>more</think>4", reasoning="add"), ["add", "more"], "4", None),
        (reasoned(reasoning=None), ["4"], "4", None),
        ({"prompt": "2 + 2?", "reasoning": "add", "completion": "4"}, ["add"], "4", None),
        (turns("2 + 2?", "So.\nAnswer: 4"), ["So.\nAnswer: 4"], "4", None),
        (turns("2 + 2?", "4", system="Be brief"), ["4"], "4", {"system": "Be brief"}),
        ({"prompt": "2 + 2?", "response": "4", "n": 1}, ["4"], "4", {"n": 1}),
        (
            {
                "conversations": [
                    {"from": "human", "value": "2 + 2?"},
                    {"from": "gpt", "value": "4"},
                ]
            },
            ["4"],
            "4",
            None,
        ),
    ],
)
def test_records_of_other_tools_become_traces(
    record: dict[str, Any], steps: list[str], answer: str, meta: Any
) -> None:
    trace = parse_trace(trace_of_record(record, "f:1"), "f", 1)
    assert (trace.prompt, [s.content for s in trace.steps]) == ("2 + 2?", steps)
    assert (trace.final_answer, trace.meta) == (answer, meta)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (turns("a", "b", "c", "d"), "expected one user and one assistant message"),
        (turns("a"), "expected one user and one assistant message"),
        (reasoned("let me look", tool_calls=[{"id": "x"}]), "the response has tool_calls"),
        (reasoned("x", function_call={"name": "f"}), "the response has function_call"),
        ({"messages": "x"}, "expected one user and one assistant message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "expected a role of system, user"),
        ({"messages": [{"role": "user", "content": None}]}, "content that is text"),
        ({"text": "x"}, "expected messages, or prompt and completion"),
        ({"prompt": "x", "completion": 3}, "expected messages, or prompt and completion"),
    ],
)
def test_what_is_no_question_and_answer_is_refused(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=r"^f:7: ") as caught:
        trace_of_record(record, "f:7")
    assert said in str(caught.value)


LINE = st.text(
    alphabet=st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20
).filter(
    lambda t: t.strip() == t and "\u2060" not in t and not t.startswith("Answer:")
)  # fmt: skip


@given(steps=st.lists(LINE, min_size=1, max_size=5), answer=LINE)
def test_what_was_exported_comes_back(steps: list[str], answer: str) -> None:
    example = TrainingExample(id="e", prompt="p", response=render_response(steps, answer))
    trace = trace_of_record(messages_record(example), "f:1")
    assert [step["content"] for step in trace["steps"]] == steps
    assert trace["final_answer"] == answer
