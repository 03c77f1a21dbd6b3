"""Intervals and verdicts of evaluations that stop as soon as they are decided."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tests.evaluation.samples import joined, samples_of
from tuneloop.artifacts.evaluation.delta_report import Context
from tuneloop.artifacts.evaluation.eval_samples import EvalSamples, State, Stopping
from tuneloop.errors import DataError
from tuneloop.evaluation.report.build import build_report
from tuneloop.evaluation.report.verdict import verdict_of
from tuneloop.evaluation.statistics.anytime import RandomOrder, compare_anytime, mean_bounds
from tuneloop.evaluation.statistics.paired import compare_scores
from tuneloop.evaluation.statistics.sequential import look


def test_bounds_hold_when_the_answers_decide_the_number_of_items() -> None:
    """Of 60 projects with a gain of 25 points, each stopped at the first decision."""
    rng = np.random.default_rng(7)
    groups = np.arange(300)
    covered = accuracy_covered = decided = 0
    for _ in range(60):
        base, tuned = (rng.random((2, 300)) < np.array([[0.3], [0.55]])).astype(float)
        found = look(tuned - base, groups, 0.03)
        stop = found.decided_after or 300
        order = RandomOrder(groups[:stop])
        compared = compare_anytime(base[:stop], tuned[:stop], groups[:stop], order)
        low, high = mean_bounds(tuned[:stop], groups[:stop], order)
        covered += compared.low <= 0.25 <= compared.high
        accuracy_covered += low <= 0.55 <= high
        decided += found.decision == "improved"
    assert covered >= 57 and accuracy_covered >= 57 and decided >= 57


def test_the_order_of_the_rows_does_not_matter_but_that_of_the_questions_does() -> None:
    base = np.repeat([1.0, 0.0], 30)
    tuned = 1 - base
    places = np.random.default_rng(1).permutation(60)
    found = compare_anytime(base, tuned, np.arange(60), RandomOrder(places))
    rows = np.argsort(places)
    same = compare_anytime(base[rows], tuned[rows], np.arange(60), RandomOrder(places[rows]))
    assert found == same and found.test == "betting"
    lost_first = compare_anytime(base, tuned, np.arange(60), RandomOrder(np.arange(60)))
    assert lost_first.p_value < 1e-3 and lost_first.high < 0
    assert compare_scores(base, tuned, np.arange(60)).p_value == 1.0


def stopped(states: dict[str, list[State]], asked: int, *, name: str = "test_v1") -> EvalSamples:
    """The first items of a set in the order of the file, which is taken as the random one."""
    found = samples_of(states, name=name)
    rule = Stopping(asked=asked, candidate=1, error=0.03)
    numbers = {key: int(key[1].split("-")[1]) for key in found.items}
    return EvalSamples(
        {name: msgspec.structs.replace(found.sets[name], stopping=rule)},
        found.models,
        {
            key: msgspec.structs.replace(item, order=numbers[key])
            for key, item in found.items.items()
        },
        tuple(one for one in found.samples if numbers[one.set, one.item] < asked),
    )


WON: dict[str, list[State]] = {"base": ["wrong"] * 60, "tuned": ["correct"] * 60}


def test_several_sets_have_one_interval_that_holds_for_all_of_them() -> None:
    both = joined(stopped(WON, 20), stopped(WON, 40, name="other"))
    report = build_report(both, Context())
    assert report.verdict == "improved" and report.not_asked == 60
    assert len(report.judged_items) == report.overall.tuned.total == 60
    overall, first = report.overall.paired, report.sets[0].overall.paired
    assert overall.anytime and overall.gain_low is not None and first.gain_low is not None
    assert 0 < overall.gain_low
    assert "20 of 60 questions of test_v1 and 40 of 60 questions of other" in report.sentence
    assert all(each.detectable is None for each in report.sets)
    assert not any(each.kind == "few_items" for each in report.warnings)


def test_the_verdict_has_the_direction_of_the_interval() -> None:
    group = build_report(stopped(WON, 30), Context()).overall
    assert verdict_of(group) == "improved"
    lost = group.model_copy(
        update={"paired": group.paired.model_copy(update={"gain_low": -0.5, "gain_high": -0.1})}
    )
    assert verdict_of(lost) == "regressed"
    open_ = group.paired.model_copy(update={"gain_low": -0.5, "gain_high": 0.1})
    assert verdict_of(group.model_copy(update={"paired": open_})) == "no detectable difference"


def test_an_answer_that_is_missing_among_the_asked_items_is_still_an_error() -> None:
    found = stopped(WON, 30)
    report = build_report(replace(found, samples=found.samples[1:]), Context())
    assert report.overall.base.error == 1
    without = {
        key: msgspec.structs.replace(item, order=msgspec.UNSET) for key, item in found.items.items()
    }
    with pytest.raises(DataError, match="has no `order`, expected one"):
        build_report(replace(found, items=without), Context())
