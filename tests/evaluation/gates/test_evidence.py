from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tests.evaluation.samples import samples_of
from tuneloop.artifacts.evaluation.delta_report import Context
from tuneloop.errors import DataError
from tuneloop.evaluation.gates.evidence import evidence_of
from tuneloop.evaluation.gates.limits import Gate, gate_problems
from tuneloop.evaluation.report.build import build_report

RUN = samples_of(
    {
        "base": ["correct", "wrong", "correct", "correct"],
        "tuned": ["correct", "correct", "error", "truncated"],
    }
)
LATER = samples_of(
    {
        "base": ["wrong", "wrong", "wrong", "wrong"],
        "tuned": ["correct", "error", "correct", "correct"],
    }
)
BASES = {"test_v1": "base"}


def test_scores_and_failed_items_come_from_the_samples() -> None:
    (found,) = evidence_of(RUN, BASES)
    assert found.base.tolist() == [1, 0, 1, 1] and found.candidate.tolist() == [1, 1, 0, 0]
    assert found.failed == ("item-2",)
    assert (found.base_digest, found.candidate_digest) == ("b" * 64, "c" * 64)
    cut = replace(RUN, samples=RUN.samples[1:])
    assert evidence_of(cut, BASES)[0].failed == ("item-0", "item-2")


def test_missing_and_unscored_answers_fail_a_gate() -> None:
    report = build_report(replace(RUN, samples=RUN.samples[1:]), Context())
    assert gate_problems(report, Gate(max_errors=2)) == []
    assert gate_problems(report, Gate(max_errors=0)) == [
        "2 answers are missing or could not be scored, expected at most 0; the report lists them as"
        " errors"
    ]


def test_the_tuned_model_of_the_baseline_takes_the_place_of_the_base() -> None:
    (found,) = evidence_of(RUN, BASES, LATER)
    assert found.base.tolist() == [1, 0, 1, 1]
    assert found.base_digest == "c" * 64
    assert found.failed == ("item-1", "item-2")  # of both runs


def test_a_baseline_on_other_items_is_a_sentence() -> None:
    other = {"test_v1": msgspec.structs.replace(LATER.sets["test_v1"], sha256="f" * 64)}
    with pytest.raises(DataError, match="set test_v1: the baseline was evaluated on other items"):
        evidence_of(RUN, BASES, replace(LATER, sets=other))
    with pytest.raises(DataError, match=r"samples.jsonl of the baseline: no answers of tuned"):
        evidence_of(RUN, BASES, samples_of({"tuned": ["correct"]}, name="other"))
    with pytest.raises(DataError, match=r"samples.jsonl of the run: no answers of base"):
        evidence_of(samples_of({"tuned": ["correct"]}), BASES)


def test_the_largest_group_is_known_before_the_first_look() -> None:
    (found,) = evidence_of(RUN, BASES)
    assert found.largest == 1
