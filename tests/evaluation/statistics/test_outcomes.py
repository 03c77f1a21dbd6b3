from __future__ import annotations

import math

import numpy as np
import pytest

from tuneloop.artifacts.delta_report import Outcome
from tuneloop.evaluation.statistics.intervals import gain_interval, share_interval
from tuneloop.evaluation.statistics.outcomes import accuracy, compare


def test_accuracy_counts_every_outcome() -> None:
    found = accuracy(["correct", "wrong", "no_answer", "correct"])
    assert (found.correct, found.wrong, found.no_answer, found.total) == (2, 1, 1, 4)
    assert found.share == 0.5


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (81, 100)])
def test_interval_is_wilsons(correct: int, total: int) -> None:
    outcomes: list[Outcome] = ["correct"] * correct
    outcomes += ["wrong"] * (total - correct)
    found = accuracy(outcomes)
    z, p = 1.959963984540054, correct / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    assert found.low == pytest.approx(max(0.0, centre - half), abs=1e-12)
    assert found.high == pytest.approx(min(1.0, centre + half), abs=1e-12)


def test_paired_comparison_is_exact_mcnemar() -> None:
    base: tuple[Outcome, ...] = (*("correct",) * 2, *("wrong",) * 10, *("no_answer",) * 3)
    tuned: tuple[Outcome, ...] = ("wrong", "correct", *("correct",) * 9, *("wrong",) * 4)
    found = compare(base, tuned)
    assert (found.improved, found.regressed) == (9, 1)
    # The test is two-sided: twice the probability of at most one regression in ten at 1/2.
    assert found.p_value == pytest.approx(2 * (1 + 10) / 2**10)


def test_no_difference_is_no_evidence() -> None:
    assert compare(["correct", "wrong"], ["correct", "wrong"]).p_value == 1.0


def test_other_lengths_are_a_bug() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare(["correct"], [])


def test_the_interval_of_the_gain_is_bonett_and_prices() -> None:
    # Adjusted counts (11, 3) of 32: gain 8/32, variance ((14/32) - (8/32)**2) / 32.
    half = 1.959963984540054 * math.sqrt((14 / 32 - (8 / 32) ** 2) / 32)
    assert gain_interval(10, 2, 30) == pytest.approx((0.25 - half, 0.25 + half))
    base: list[Outcome] = [*["wrong"] * 10, *["correct"] * 20]  # type: ignore[list-item]
    found = compare(base, [*["correct"] * 28, *["wrong"] * 2])  # type: ignore[list-item]
    assert (found.gain_low, found.gain_high) == gain_interval(10, 2, 30)


def test_the_interval_of_the_gain_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    up, down, items, rounds = 0.5, 0.05, 40, 2000
    drawn = rng.multinomial(items, [up, down, 1 - up - down], size=rounds)
    intervals = [gain_interval(int(a), int(b), items) for a, b, _ in drawn]
    covered = sum(low <= up - down <= high for low, high in intervals) / rounds
    assert 0.935 < covered < 0.975


def test_intervals_stay_in_range_where_nothing_differs() -> None:
    low, high = gain_interval(0, 0, 5)
    assert low == -high and 0 < high < 1
    assert gain_interval(3, 0, 3)[1] == 1.0
    assert share_interval(0, 0) == (0.0, 1.0)
    assert share_interval(50, 64)[0] == pytest.approx(0.666, abs=1e-3)
