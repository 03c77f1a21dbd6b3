from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tuneloop.evaluation.statistics import intervals
from tuneloop.evaluation.statistics.intervals import (
    gain_interval,
    group_totals,
    mean_interval,
    resampled_interval,
    share_interval,
)


def test_one_model_with_independent_answers_has_wilsons_interval() -> None:
    values = np.array([1.0] * 81 + [0.0] * 19)
    assert mean_interval(values, np.arange(100)) == share_interval(81, 100)
    assert share_interval(0, 7)[0] == 0.0 and share_interval(7, 7)[1] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_resampling_is_scipys_bootstrap_of_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 60, 400)
    values = rng.integers(-2, 3, 400) / 2
    sums, sizes = group_totals(values, groups)
    # The two items that Bonett and Price add.
    sums, sizes = np.append(sums, (-1, 1)), np.append(sizes, (1, 1))
    found = stats.bootstrap(
        (sums, sizes),
        lambda s, m, axis: s.sum(axis) / m.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=rng,
    ).confidence_interval
    low, high = resampled_interval(values, groups, -1.0, 1.0)
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.006)
    assert high - low > found.high - found.low  # widened for 60 groups


def test_resampling_agrees_with_bonett_and_price_where_both_apply() -> None:
    values = np.repeat([1.0, -1.0, 0.0], [60, 30, 210])
    found = resampled_interval(values, np.arange(300), -1.0, 1.0)
    assert found == pytest.approx(gain_interval(60, 30, 300), abs=0.008)


def test_an_interval_has_a_width_where_nothing_differs() -> None:
    low, high = resampled_interval(np.zeros(12), np.repeat(np.arange(4), 3), -1.0, 1.0)
    assert -1 < low < 0 < high < 1
    assert resampled_interval(np.zeros(9), np.zeros(9, int), -1.0, 1.0) == (-1.0, 1.0)
    low, high = mean_interval(np.ones(20), np.arange(20) // 2)
    assert 0.5 < low < 1 == high


def test_many_different_totals_have_the_large_sample_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(4)
    values, groups = rng.random(2000), np.repeat(np.arange(1000), 2)
    resampled = resampled_interval(values, groups, 0.0, 1.0)
    monkeypatch.setattr(intervals, "MAX_DISTINCT", 100)
    assert resampled_interval(values, groups, 0.0, 1.0) == pytest.approx(resampled, abs=0.003)


def test_equal_totals_are_equal_whatever_the_order_of_their_sum() -> None:
    thirds = np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])
    sums, sizes = group_totals(thirds, np.array([0, 0, 0, 1, 1, 1]))
    assert sums[0] == sums[1] == 0.6
    assert sizes.tolist() == [3.0, 3.0]


def test_intervals_are_the_same_bytes_each_time() -> None:
    values, groups = np.array([0.5, 1, 0, 0.25] * 10), np.repeat(np.arange(10), 4)
    assert mean_interval(values, groups) == mean_interval(values, groups)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (81, 100)])
def test_the_interval_of_a_share_is_wilsons(correct: int, total: int) -> None:
    z, p = 1.959963984540054, correct / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
    assert share_interval(correct, total) == pytest.approx(
        (max(0.0, centre - half), min(1.0, centre + half)), abs=1e-12
    )
    assert share_interval(0, 0) == (0.0, 1.0)


def test_the_interval_of_the_gain_is_bonett_and_prices() -> None:
    # Adjusted counts (11, 3) of 32: gain 8/32, variance ((14/32) - (8/32)**2) / 32.
    half = 1.959963984540054 * math.sqrt((14 / 32 - (8 / 32) ** 2) / 32)
    assert gain_interval(10, 2, 30) == pytest.approx((0.25 - half, 0.25 + half))
    low, high = gain_interval(0, 0, 5)
    assert low == -high and 0 < high < 1
    assert gain_interval(3, 0, 3)[1] == 1.0
