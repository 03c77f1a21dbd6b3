"""A sample as a trace: training on it would teach the text that the model has written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.builders import make_row
from tuneloop.artifacts.evaluation.eval_samples import Item, Judgement
from tuneloop.evaluation.scorers.scoring import score_text
from tuneloop.evaluation.scorers.text.places import whole_answer
from tuneloop.evaluation.traces import NO_ANSWER, build_sample_trace, sample_id
from tuneloop.stages.answering.parsing import parse_answer
from tuneloop.store.db.codec import new_trace
from tuneloop.traces.schema import parse_trace, prompt_key
from tuneloop.training.prompt_templates import RECIPES, Draft

ITEM = Item(set="prompts", id="a 🟡", prompt="1 + 1?", expected_answer="2", category="sum")
RIGHT = Judgement("correct", 1.0, "2", "2")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def build(
    text: str,
    judgement: Judgement = RIGHT,
    recipe: str = "trace_sft_v1",
    *,
    hit_limit: bool = False,
) -> dict[str, Any]:
    template = RECIPES[recipe]
    parsed = parse_answer(text, ITEM, template, hit_limit=hit_limit)
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


CHAT: dict[str, Any] = {
    "system": "Be kind \u202b🟡",
    "messages": ({"role": "user", "content": "a\r\nb"}, {"role": "assistant", "content": "c"}),
    "tools": ({"type": "function", "function": {"name": "look", "parameters": {"x": 1e16}}},),
}


def chat_trace(text: str, *, hit_limit: bool = False, **fields: Any) -> dict[str, Any]:
    item = msgspec.structs.replace(ITEM, bare_answer=True, **fields)
    recipe = RECIPES["trace_sft_v1"]
    parsed = parse_answer(text, item, recipe, hit_limit=hit_limit)
    trace = build_sample_trace(
        item,
        RIGHT,
        sample=0,
        text=text,
        parsed=parsed,
        answer_alone=parsed.answer,
        meta={"sampled": "f" * 64},
    )
    parse_trace(trace, "sampled.jsonl", 1)
    return trace


@given(TEXTS.filter(str.strip))
def test_a_bare_answer_is_trained_as_the_text_that_the_model_wrote(text: str) -> None:
    assume(whole_answer(text) == text.strip())  # neither a heading nor a thinking block
    trace = chat_trace(text)
    assert (trace["steps"], trace["final_answer"]) == ([], text.strip())
    row = make_row({**trace, "id": "x", "created_at": "2026-11-28T00:00:00.000000Z"})
    draft = RECIPES["trace_sft_v1"].draft(row, None)
    assert isinstance(draft, Draft) and draft.is_bare


def test_a_sample_of_a_conversation_has_the_prompt_key_of_its_source() -> None:
    trace = chat_trace("Hello", **CHAT)
    assert {name: trace[name] for name in CHAT} == {
        name: value if name == "system" else list(value) for name, value in CHAT.items()
    }
    assert trace["trace_version"] == "1.1"
    assert new_trace(parse_trace(trace, "a", 1)).prompt_key == prompt_key(
        ITEM.prompt, CHAT["system"], list(CHAT["messages"])
    )
    for only in CHAT:
        assert set(CHAT) & set(chat_trace("Hello", **{only: CHAT[only]})) == {only}


def test_reasoning_before_a_bare_answer_is_a_step_and_a_cut_text_is_no_answer() -> None:
    trace = chat_trace("Reasoning:\nLet me see.\n\nHello")
    assert [step["content"] for step in trace["steps"]] == ["Let me see."]
    assert trace["final_answer"] == "Hello"
    trace = chat_trace("<think>\nLet me see.\n</think>\n\nHello\n")
    assert [step["content"] for step in trace["steps"]] == ["Let me see."]
    assert trace["final_answer"] == "Hello"
    for cut in (chat_trace("Hel", hit_limit=True), chat_trace(" \n")):
        assert cut["final_answer"] == NO_ANSWER
        assert [step["type"] for step in cut["steps"]] == ["unparsed"]


def test_the_scorer_reads_a_bare_answer_from_the_whole_text() -> None:
    item = msgspec.structs.replace(ITEM, bare_answer=True)

    def state(text: str, **more: Any) -> str:
        return score_text(text, item, "exact", parse=lambda text: None, **more)[0].state

    assert state("2") == state("<think>3?</think> 2\n") == state("Reasoning:\n3?\n\n2") == "correct"
    assert state("Reasoning:\n1. 3?\nAnswer: 2") == "correct"
    assert (state("It is 2"), state(" ")) == ("wrong", "no_answer")
    assert state("2", hit_limit=True) == "truncated"


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


@given(st.lists(TEXTS, max_size=4), TEXTS.filter(str.strip))
@example([], "Is </think> a tag?")
def test_a_chat_is_trained_as_it_was_written(steps: list[str], answer: str) -> None:
    recipe = RECIPES["chat_v1"]
    text = recipe.render_response(steps, answer)
    trace = build(text, recipe="chat_v1")
    assert all(step["type"] == "reason" for step in trace["steps"])
    again = trained(trace, "chat_v1")
    assert recipe.parse_response(again) == recipe.parse_response(text)
    # Only line feeds at the edges of a part are lost.
    parts = (*steps, answer)
    if not any(part.startswith("\n") or part.endswith("\n") or part.isspace() for part in parts):
        assert again == text


def test_a_chat_without_an_answer_is_marked() -> None:
    trace = build("<think>\nTwo and two", recipe="chat_v1")
    assert [step["content"] for step in trace["steps"]] == ["Two and two"]
    assert trace["final_answer"] == NO_ANSWER
    for cut in ("The ans", "<think>\nTwo and two\n</think>\n\nThe ans"):
        trace = build(cut, recipe="chat_v1", hit_limit=True)
        assert len(trace["steps"]) == 1
        assert trace["final_answer"] == NO_ANSWER
    trace = build("<think>\n\n</think>\n\nFour", recipe="chat_v1")
    assert (trace["steps"], trace["final_answer"]) == ([], "Four")


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
