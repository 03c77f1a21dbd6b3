"""A sample as a trace: training on it would teach the text that the model has written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import make_row
from tuneloop.artifacts.eval_samples import Item, Judgement
from tuneloop.evaluation.traces import NO_ANSWER, build_sample_trace, sample_id
from tuneloop.traces.schema import parse_trace
from tuneloop.training.prompt_templates import RECIPES, Draft

ITEM = Item(set="prompts", id="a 🟡", prompt="1 + 1?", expected_answer="2", category="sum")
RIGHT = Judgement("correct", 1.0, "2", "2")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def build(text: str, judgement: Judgement = RIGHT, recipe: str = "trace_sft_v1") -> dict[str, Any]:
    template = RECIPES[recipe]
    parsed = template.parse_response(text)
    trace = build_sample_trace(
        ITEM,
        judgement,
        sample=3,
        text=text,
        parsed=parsed,
        answer_alone=None if parsed.answer is None else template.render_response((), parsed.answer),
        meta={"sampled": "f" * 64},
    )
    parse_trace(trace, "sampled.jsonl", 1)
    return trace


def trained(trace: dict[str, Any], recipe: str = "trace_sft_v1") -> str:
    """Return the response that an export makes of a trace."""
    steps = sorted(trace["steps"], key=lambda step: step["i"])
    stored = {"id": "x", "created_at": "2026-11-28T00:00:00.000000Z"}
    draft = RECIPES[recipe].draft(make_row({**trace, "steps": steps, **stored}), None)
    assert isinstance(draft, Draft)
    assert draft.context is None and not draft.is_bare
    return RECIPES[recipe].render_response(draft.steps, draft.answer)


@given(st.lists(TEXTS, max_size=4), TEXTS.filter(str.strip))
def test_a_response_in_the_form_of_the_recipe_is_trained_as_it_was_written(
    steps: list[str], answer: str
) -> None:
    text = RECIPES["trace_sft_v1"].render_response(steps, answer)
    assert trained(build(text)) == text


def test_free_text_before_an_answer_is_one_step() -> None:
    trace = build("Two fingers and\ntwo more.\nAnswer: 4")
    assert [step["content"] for step in trace["steps"]] == ["Two fingers and\ntwo more."]
    assert (trace["final_answer"], trace["trace_version"]) == ("4", "1.1")
    assert trained(trace) == "Reasoning:\n1. Two fingers and\ntwo more.\nAnswer: 4"


def test_an_answer_alone_has_no_steps() -> None:
    for recipe in ("trace_sft_v1", "answer_only_v1"):
        trace = build("Answer: 4", recipe=recipe)
        assert (trace["steps"], trace["final_answer"]) == ([], "4")
        assert trained(trace, recipe) == "Answer: 4"


@pytest.mark.parametrize("text", ["", "  ", "I do not\0 know", "שלום"])
def test_text_without_an_answer_is_marked(text: str) -> None:
    trace = build(text, Judgement("no_answer", 0.0))
    assert (trace["final_answer"], trace["reward"]) == (NO_ANSWER, 0.0)
    assert [step["type"] for step in trace["steps"]] == ["unparsed"]


def test_a_sample_that_was_not_scored_has_no_reward() -> None:
    trace = build("Answer: 4", Judgement("error", 0.0, "4"))
    assert "reward" not in trace
    assert trace["meta"]["state"] == "error"
    assert trace["meta"]["sample_id"] == sample_id("f" * 64, "a 🟡", 3)
    assert trace["meta"]["sample_id"] != sample_id("f" * 64, "a 🟡", 2)
