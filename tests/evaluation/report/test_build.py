from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import pytest

from tuneloop.artifacts.delta_report import DeltaReport, Outcome, dump_report, load_report
from tuneloop.evaluation.report.build import (
    ScoredItem,
    build_guard,
    build_report,
    compare_prompts,
    fairest,
)
from tuneloop.evaluation.report.render import _code, render_markdown
from tuneloop.evaluation.scorers.contains_answer import score_contains_answer
from tuneloop.evaluation.scorers.exact_match import score_exact_match
from tuneloop.evaluation.sets.schema import EvalItem

ANSWERS = [  # (category, expected, base, tuned)
    ("sums", "4", None, "4"),
    ("sums", "5", "5", "6"),
    ("sums", "7", "8", "7"),
    ("words", "a|b", None, "a|b"),
    ("words", "`code`", "nothing\nhere", None),
    ("words", "שלום", "שלום", "שלום"),
]
HEADER = {
    "eval set": "test_v1.jsonl",
    "scorer": "exact_match",
    "seed": "3",
    "decoding": "greedy | batch 64",
}


def answered() -> list[ScoredItem]:
    found = []
    for number, (category, expected, base, tuned) in enumerate(ANSWERS):
        item = EvalItem(
            id=f"item-{number}",
            prompt=f"Question {number} with ``` in it",
            expected_answer=expected,
            category=category,
            difficulty="easy",
        )
        scores = score_exact_match(item, base), score_exact_match(item, tuned)
        found.append(ScoredItem(item, *scores, f"base\n```\n{base}", f"tuned {tuned}"))
    return found


GENERAL = [  # (expected, base, tuned)
    ("Paris", "The capital of France is Paris.", "Answer: Paris"),
    ("4", "Two and two make 4.", "Answer: 5"),
    ("blue", "The sky is | blue", ""),
    ("Berlin", "I do not know", "It is Berlin."),
]


def guarded() -> list[ScoredItem]:
    found = []
    for number, (expected, base, tuned) in enumerate(GENERAL):
        item = EvalItem(
            id=f"general-{number}",
            prompt=f"General question {number}?",
            expected_answer=expected,
            category="general",
            difficulty="easy",
        )
        scores = score_contains_answer(item, base), score_contains_answer(item, tuned)
        found.append(ScoredItem(item, *scores, base, tuned))
    return found


def full_report() -> DeltaReport:
    """A report with everything that is optional."""
    tuned: list[Outcome] = [one.tuned.outcome for one in answered()]
    plain: list[Outcome] = ["no_answer"] * len(tuned)
    shown: list[Outcome] = [one.base.outcome for one in answered()]
    prompts = compare_prompts({0: plain, 2: shown}, tuned)
    return build_report(
        answered(),
        HEADER,
        base_prompts=prompts,
        base_examples=fairest(prompts).examples,
        guard=build_guard("general_v1.jsonl", "contains_answer", guarded()),
        random_weights=True,
    )


@pytest.mark.golden
def test_markdown_snapshot_of_a_full_report(golden: Callable[[str, str], None]) -> None:
    golden("report/delta_report_full.md", render_markdown(full_report(), answered()))


def test_the_fair_base_is_the_one_that_scores_best() -> None:
    report = full_report()
    assert report.base_examples == 2
    assert [one.base.correct for one in report.base_prompts] == [0, 2]
    assert report.base_prompts[1].paired == report.overall.paired
    assert report.base_prompts[1].gain(report.overall.tuned) == report.overall.gain
    right: list[Outcome] = ["correct"]
    assert fairest(compare_prompts({0: right, 2: right}, right)).examples == 0
    assert load_report(dump_report(report), "x") == report


def test_the_guard_counts_what_was_kept_and_names_what_was_lost() -> None:
    guard = build_guard("general_v1.jsonl", "contains_answer", guarded())
    assert (guard.base.correct, guard.tuned.correct, guard.kept) == (3, 2, 1)
    assert guard.kept_share == pytest.approx(1 / 3)
    assert guard.kept_low < guard.kept_share < guard.kept_high
    assert [one.id for one in guard.lost] == ["general-1", "general-2"]
    nothing = build_guard("general_v1.jsonl", "contains_answer", guarded()[3:])
    assert (nothing.base.correct, nothing.kept_share) == (0, 1.0)
    markdown = render_markdown(build_report(answered(), HEADER, guard=nothing), answered())
    assert "The base model answered no general question correctly" in markdown


@pytest.mark.golden
def test_markdown_snapshot(golden: Callable[[str, str], None]) -> None:
    golden("report/delta_report.md", render_markdown(build_report(answered(), HEADER), answered()))


@pytest.mark.golden
def test_json_snapshot(golden: Callable[[str, str], None]) -> None:
    golden("report/delta_report.json", dump_report(build_report(answered(), HEADER)).decode())


def test_numbers() -> None:
    report = build_report(answered(), HEADER)
    assert (report.overall.base.correct, report.overall.tuned.correct) == (2, 4)
    assert (report.overall.base.no_answer, report.overall.tuned.no_answer) == (2, 1)
    assert (report.overall.paired.improved, report.overall.paired.regressed) == (3, 1)
    assert [row.name for row in report.categories] == ["sums", "words"]
    assert [item.id for item in report.regressions] == ["item-1"]
    assert [item.id for item in report.still_wrong] == ["item-4"]
    assert report.verdict == "no detectable difference"
    value = json.loads(dump_report(report))
    assert value["overall"]["paired"]["improved"] == 3
    assert value["items"][1]["tuned"] == {"outcome": "wrong", "answer": "6", "matched": None}
    assert load_report(dump_report(report), "x") == report


@pytest.mark.parametrize(
    ("base", "tuned", "verdict"),
    [(None, "4", "improved"), ("4", None, "regressed"), ("4", "4", "no detectable difference")],
)
def test_verdict_needs_evidence(base: str | None, tuned: str | None, verdict: str) -> None:
    found = []
    for number in range(12):
        item = EvalItem(
            id=str(number), prompt=str(number), expected_answer="4", category="c", difficulty="easy"
        )
        scores = score_exact_match(item, base), score_exact_match(item, tuned)
        found.append(ScoredItem(item, *scores, "", ""))
    assert build_report(found, HEADER).verdict == verdict
    assert f"# Delta report: {verdict}" in render_markdown(build_report(found, HEADER), found)


def test_no_regressions_is_said() -> None:
    markdown = render_markdown(build_report(answered()[:1], HEADER), answered()[:1])
    assert (
        "None: the tuned model answers every item correctly that the base model answered correctly."
        in markdown
    )
    assert "None: at least one of the models answers each item correctly." in markdown


def test_a_text_of_backticks_is_fenced_in_linear_time() -> None:
    """A list of all prefixes took 1.4 GB."""
    text = "`" * 50_000 + " x " + "`" * 7
    tracemalloc.start()
    fenced = _code(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert fenced == f"{'`' * 50_001}text\n{text}\n{'`' * 50_001}"
    assert peak < 1 << 20
