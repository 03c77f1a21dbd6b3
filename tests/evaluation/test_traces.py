from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop import jsonl
from tuneloop.artifacts.evaluation.eval_samples import Judgement
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.evaluation.traces import build_eval_trace
from tuneloop.traces.response_text import ParsedResponse, parse_plain_response
from tuneloop.traces.schema import parse_trace

ITEM = EvalItem(id="x-1", prompt="2+2?", expected_answer="4", category="sums", difficulty="easy")

NONE = Judgement("no_answer", 0.0)


def test_steps_and_answer_are_the_models_own() -> None:
    trace = build_eval_trace(
        ITEM,
        Judgement("correct", 1.0, "4", "4"),
        text="Reasoning:\n1. add\nAnswer: 4",
        parsed=ParsedResponse(("add",), "4"),
        meta={"model_digest": "abc", "source": "forged"},
    )
    parsed = parse_trace(trace, "eval", 1)
    assert [(s.i, s.type, s.content) for s in parsed.steps] == [(0, "reason", "add")]
    assert parsed.final_answer == "4"
    assert parsed.meta == {
        "model_digest": "abc",
        "source": "evaluation",
        "eval_id": "x-1",
        "category": "sums",
        "expected_answer": "4",
        "outcome": "correct",
        "correct": True,
        "dropped_steps": 0,
    }


@pytest.mark.parametrize(("text", "content"), [("", "(no text)"), (" \n", "(no text)"), ("x", "x")])
def test_a_model_that_says_nothing_useful_still_makes_a_trace(text: str, content: str) -> None:
    trace = build_eval_trace(ITEM, NONE, text=text, parsed=ParsedResponse((), None), meta={})
    parsed = parse_trace(trace, "eval", 1)
    assert [(s.type, s.content) for s in parsed.steps] == [("unparsed", content)]
    assert parsed.final_answer == "(no answer)"
    assert parsed.meta is not None
    assert parsed.meta["outcome"] == "no_answer"


@given(
    text=st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    steps=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1)),
    answer=st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1),
)
def test_whatever_a_model_says_can_be_stored(
    text: str, steps: list[str], answer: str | None
) -> None:
    parsed = ParsedResponse(tuple(steps), answer)
    trace = build_eval_trace(ITEM, NONE, text=text, parsed=parsed, meta={})
    parse_trace(trace, "eval", 1)
    jsonl.dump_line(trace)


def test_what_is_too_long_is_cut_and_said() -> None:
    trace = build_eval_trace(
        ITEM,
        NONE,
        text="",
        parsed=ParsedResponse(("x" * 30_000,) * 1200, "y" * 60_000),
        meta={},
    )
    parsed = parse_trace(trace, "eval", 1)
    assert len(parsed.steps) == 1000
    assert parsed.steps[0].content.endswith("x (cut)")
    assert parsed.final_answer.endswith("y (cut)")
    assert trace["meta"]["dropped_steps"] == 200


def test_the_answer_is_that_of_the_prompt_template_not_what_a_scorer_reads() -> None:
    text = "Reasoning:\n1. add\nAnswer: 4"
    judged = Judgement("correct", 1.0, text, "4")  # a scorer that reads the whole text
    trace = build_eval_trace(ITEM, judged, text=text, parsed=parse_plain_response(text), meta={})
    assert trace["final_answer"] == "4"
