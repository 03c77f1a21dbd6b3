from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop import jsonl
from tuneloop.evaluation.scorers.schema import Score
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.evaluation.traces import build_eval_trace
from tuneloop.traces.schema import parse_trace

ITEM = EvalItem(id="x-1", prompt="2+2?", expected_answer="4", category="sums", difficulty="easy")


def test_steps_and_answer_are_the_models_own() -> None:
    trace = build_eval_trace(
        ITEM,
        Score.correct("4", "4"),
        text="Reasoning:\n1. add\nAnswer: 4",
        steps=("add",),
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
    trace = build_eval_trace(ITEM, Score.no_answer(), text=text, steps=(), meta={})
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
    score = Score.wrong(answer) if answer else Score.no_answer()
    trace = build_eval_trace(ITEM, score, text=text, steps=steps, meta={})
    parse_trace(trace, "eval", 1)
    jsonl.dump_line(trace)


def test_what_is_too_long_is_cut_and_said() -> None:
    trace = build_eval_trace(
        ITEM,
        Score.wrong("y" * 60_000),
        text="",
        steps=["x" * 30_000] * 1200,
        meta={},
    )
    parsed = parse_trace(trace, "eval", 1)
    assert len(parsed.steps) == 1000
    assert parsed.steps[0].content.endswith("x (cut)")
    assert parsed.final_answer.endswith("y (cut)")
    assert trace["meta"]["dropped_steps"] == 200
