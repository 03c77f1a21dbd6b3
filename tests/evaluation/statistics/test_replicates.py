"""Test the comparison of two arms over several seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tuneloop.evaluation.statistics.replicates import compare_replicates

ITEMS = np.arange(200)


def arms(rng: np.random.Generator, *, gain: float, spread: float, seeds: int = 5) -> np.ndarray:
    """Draw scores of two arms: shape (2, seeds, items)."""
    levels = 0.5 + rng.normal(0, spread, (2, seeds)) + np.array([[0.0], [gain]])
    return (rng.random((2, seeds, len(ITEMS))) < levels[:, :, None]).astype(np.float64)


def test_the_interval_is_students_over_the_seeds_if_all_items_agree() -> None:
    gains = np.array([0.1, 0.3, 0.2, 0.25, 0.15])
    other = np.zeros((5, len(ITEMS)))
    arm = np.repeat(gains[:, None], len(ITEMS), axis=1)
    expected = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    found = compare_replicates(other, arm, ITEMS)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.003)


def test_seeds_and_items_both_widen_the_interval() -> None:
    other, arm = arms(np.random.default_rng(0), gain=0.2, spread=0.1)
    found = compare_replicates(other, arm, ITEMS)
    by_seed = (arm - other).mean(axis=1)
    students = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert found.widest == "seeds"
    assert found.low < students.low < students.high < found.high
    assert found.by_seed == pytest.approx(by_seed.tolist())
    assert found.gain == pytest.approx(by_seed.mean())


def test_more_statements_widen_both_intervals() -> None:
    other, arm = arms(np.random.default_rng(0), gain=0.2, spread=0.1)
    one, three = (compare_replicates(other, arm, ITEMS, statements=n) for n in (1, 3))
    assert three.high - three.low > one.high - one.low
    lone = [compare_replicates(other[:1], arm[:1], ITEMS, statements=n) for n in (1, 3)]
    assert lone[1].high - lone[1].low > lone[0].high - lone[0].low


def test_one_seed_is_judged_by_its_items_alone() -> None:
    other, arm = arms(np.random.default_rng(1), gain=0.4, spread=0.0, seeds=1)
    found = compare_replicates(other, arm, ITEMS)
    assert (found.seeds, found.widest, found.verdict) == (1, "items", "improved")


@pytest.mark.parametrize("seeds", [1, 2, 5])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_arms_without_any_difference_are_not_told_apart(seeds: int, value: float) -> None:
    same = np.full((seeds, 20), value)
    found = compare_replicates(same, same, np.arange(20))
    assert found.low < found.gain == 0 < found.high
    assert found.verdict == "no detectable difference"


def test_seeds_that_all_agree_are_still_judged_by_their_items() -> None:
    other, arm = np.zeros((5, 4)), np.zeros((5, 4))
    arm[:, 0] = 1
    found = compare_replicates(other, arm, np.arange(4))
    assert (found.widest, found.verdict) == ("items", "no detectable difference")


def test_a_worse_arm_has_regressed_and_groups_are_one_observation() -> None:
    arm, other = arms(np.random.default_rng(2), gain=0.5, spread=0.02)
    assert compare_replicates(other, arm, ITEMS).verdict == "regressed"
    alone = compare_replicates(other[:1], arm[:1], np.zeros(len(ITEMS), np.int64))
    assert (alone.low, alone.high) == (-1, 1)
