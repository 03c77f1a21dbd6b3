"""Scores of stored traces: where the expected answer comes from, and what has no score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.builders import letter_trace, stored_row
from tuneloop.datasets.schema import TraceRow
from tuneloop.errors import SpecError
from tuneloop.evaluation.scorers.user_file import load_user_scorer
from tuneloop.evaluation.sets.schema import EvalItem
from tuneloop.evaluation.trace_scores import Counts, TraceScorer, criteria_of
from tuneloop.traces.judgements import MAX_DETAILS_BYTES, ScoreRow


def item(number: int, expected: str, **fields: Any) -> EvalItem:
    value = {"id": f"q{number}", "prompt": f"What is {number}?", "category": "x", **fields}
    return EvalItem.model_validate({**value, "expected_answer": expected})


@pytest.fixture
def row(tmp_path: Path) -> Any:
    made = iter(range(100))

    def make(answer: str, prompt: str = "What is 1?", **meta: Any) -> TraceRow:
        trace = {**letter_trace(0), "prompt": prompt, "final_answer": answer, "meta": meta}
        return stored_row(tmp_path / str(next(made)), trace)[0]

    return make


def test_the_expected_answer_is_that_of_the_item_or_of_the_trace(row: Any) -> None:
    scorer = TraceScorer("exact", "exact", [item(1, "one"), item(2, "two")])
    found = {
        "by prompt": scorer.score(row("one", prompt="  WHAT is\n1?")),
        "by id": scorer.score(row("two", prompt="other", prompt_id="q2")),
        "id before prompt": scorer.score(row("two", eval_id="q2")),
        "own": scorer.score(row("five", prompt="other", expected_answer="five")),
        "own number": scorer.score(row("5", prompt="other", expected_answer=5)),
        "wrong": scorer.score(row("1")),
    }
    assert {name: each.score for name, each in found.items()} == {
        **dict.fromkeys(found, 1.0),
        "wrong": 0.0,
    }
    for meta in ({}, {"expected_answer": " "}, {"expected_answer": None}, {"prompt_id": ["q1"]}):
        score = scorer.score(row("one", prompt="other", **meta))
        assert (score.score, score.state) == (None, "no_expected_answer")


def test_strict_and_lenient(row: Any) -> None:
    answer = row("So the sum is\n**Answer:** 5", expected_answer="5")
    assert TraceScorer("exact", "c").score(answer).score == 0
    assert TraceScorer("exact", "c", reading="lenient").score(answer).score == 1


def test_what_a_scorer_cannot_judge_has_no_score(row: Any) -> None:
    raising = load_user_scorer(b"def score(completion, item):\n    raise ValueError('x')\n", "s.py")
    found = TraceScorer(raising, "s").score(row("5", expected_answer="5"))
    assert (found.score, found.state) == (None, "unscorable")
    assert "ValueError" in (found.explanation or "")
    own = item(1, "x", scorer={"kind": "judge", "url": "http://127.0.0.1:1", "model": "m"})
    found = TraceScorer("exact", "c", [own]).score(row("5"))
    assert (found.state, "is not allowed" in (found.explanation or "")) == ("unscorable", True)
    with pytest.raises(SpecError, match="not allowed"):
        TraceScorer("code", "c")


def test_long_and_odd_texts_fit_the_request(row: Any) -> None:
    for text in ("👩🏽‍🚀" * 5000, "\x01" * 5000, "كم " * 5000):
        score = TraceScorer("exact", "c").score(row(text, expected_answer=text))
        request = ScoreRow.model_validate(
            {**score.to_request(), "trace_id": "6f1c2f0e-5f5b-4a3e-9d59-0c6a1f0f9b11"}
        )
        assert request.score == 1
        assert len(str(request.details).encode()) < MAX_DETAILS_BYTES


def test_counts(row: Any) -> None:
    counts, scorer = Counts(), TraceScorer("exact", "c")
    for answer, meta in (
        ("5", {"expected_answer": "5"}),
        ("6", {"expected_answer": "5"}),
        ("", {}),
    ):
        counts.add(scorer.score(row(answer or "x", prompt="p", **meta)))
    assert counts.text() == (
        "3 traces, 2 scored, mean score 0.500: 1 correct, 1 no_expected_answer, 1 wrong"
    )


def test_names_of_scores() -> None:
    assert criteria_of("exact_match") == "exact"
    assert criteria_of({"kind": "numeric", "tolerance": 0.1}) == "numeric"
    made = load_user_scorer(b"def score(completion, item):\n    return 1\n", "a/b/mine.py")
    assert criteria_of(made) == "mine"
    with pytest.raises(SpecError, match="name the scores with --criteria"):
        criteria_of(load_user_scorer(b"def score(c, i):\n    return 1\n", "my scorer.py"))
