from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from tuneloop.evaluation.statistics import paired
from tuneloop.evaluation.statistics.categories import compare_categories
from tuneloop.evaluation.statistics.intervals import gain_interval
from tuneloop.evaluation.statistics.paired import Table, compare_scores, mcnemar_p, sign_flip_p

RIGHT, WRONG = np.ones, np.zeros


def scores(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Base and tuned scores from the 2x2 table: both, only base, only tuned, neither."""
    return np.repeat([1.0, 1.0, 0.0, 0.0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)


def test_independent_answers_are_compared_by_the_exact_mcnemar_test() -> None:
    base, tuned = scores(40, 3, 12, 5)
    found = compare_scores(base, tuned, np.arange(60))
    assert found.table == Table(both=40, only_base=3, only_tuned=12, neither=5)
    assert (found.test, found.items, found.groups) == ("mcnemar", 60, 60)
    assert found.gain == 9 / 60 and found.discordance == 15 / 60
    assert found.p_value == pytest.approx(mcnemar([[40, 3], [12, 5]], exact=True).pvalue)
    assert (found.low, found.high) == gain_interval(12, 3, 60)
    assert found.verdict == "improved"
    assert compare_scores(tuned, base, np.arange(60)).verdict == "regressed"


def test_models_without_a_difference_do_not_differ() -> None:
    base, _ = scores(3, 0, 0, 2)
    found = compare_scores(base, base, np.arange(5))
    assert (found.p_value, found.verdict) == (1.0, "no detectable difference")
    assert compare_scores(base / 2, base / 2, np.zeros(5, int)).p_value == 1.0


@pytest.mark.parametrize(("only_base", "only_tuned"), [(3, 12), (0, 5), (20, 20), (7, 1)])
def test_flipping_single_items_is_mcnemars_test(only_base: int, only_tuned: int) -> None:
    base, tuned = scores(30, only_base, only_tuned, 30)
    p_value = sign_flip_p(tuned - base, np.arange(len(base)))
    assert p_value == pytest.approx(mcnemar_p(only_base, only_tuned), abs=0.012)


def test_flipping_groups_is_scipys_permutation_test() -> None:
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 25, 200)
    difference = rng.integers(-4, 6, 200) / 5
    totals = np.bincount(groups, weights=difference)
    found = stats.permutation_test(
        (totals,), np.sum, permutation_type="samples", n_resamples=9999, rng=rng
    )
    assert sign_flip_p(difference, groups) == pytest.approx(found.pvalue, abs=0.012)


def test_many_different_totals_are_tested_as_a_normal_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    difference = np.random.default_rng(6).normal(0.015, 0.3, 400)
    monkeypatch.setattr(paired, "MAX_DISTINCT", 400)
    exact = sign_flip_p(difference, np.arange(400))
    monkeypatch.setattr(paired, "MAX_DISTINCT", 10)
    assert sign_flip_p(difference, np.arange(400)) == pytest.approx(exact, abs=0.012)


def test_items_of_one_group_are_one_observation() -> None:
    base, tuned = scores(40, 3, 12, 5)
    alone = compare_scores(base, tuned, np.arange(60))
    # All 15 differences are in two groups, so there are two observations that differ.
    together = compare_scores(base, tuned, np.repeat([0, 1, 2, 3], [40, 3, 12, 5]))
    assert alone.p_value < 0.05 < 0.4 < together.p_value
    assert together.test == "sign_flip" and together.groups == 4
    assert together.high - together.low > 2 * (alone.high - alone.low)


def test_several_samples_of_an_item_count_by_their_mean() -> None:
    base = np.array([0.25, 0.5, 0.75, 1.0] * 20)
    found = compare_scores(base, np.minimum(1.0, base + 0.25), np.arange(80))
    assert found.table is None and found.test == "sign_flip"
    assert found.gain == pytest.approx(0.1875) and (found.higher, found.lower) == (60, 0)
    assert found.low < found.gain < found.high and found.verdict == "improved"


def test_categories_are_adjusted_by_holm_and_small_ones_are_not_tested() -> None:
    tables = {"b": (20, 1, 11, 4), "a": (5, 0, 8, 1), "tiny": (0, 0, 9, 0), "é 🦊": (10, 5, 5, 5)}
    base, tuned = (
        np.concatenate(each)
        for each in zip(*(scores(*one) for one in tables.values()), strict=True)
    )
    names = [name for name, one in tables.items() for _ in range(sum(one))]
    found = {one.name: one for one in compare_categories(base, tuned, np.arange(len(base)), names)}
    assert list(found) == ["a", "b", "tiny", "é 🦊"]
    raw = {name: one.comparison.p_value for name, one in found.items()}
    assert raw["tiny"] < 0.01 and found["tiny"].p_value is None
    assert found["tiny"].verdict == "no detectable difference"
    assert found["b"].p_value == pytest.approx(3 * raw["b"])  # least of three
    assert found["a"].p_value == pytest.approx(3 * raw["b"])  # 2 * its own is less than the least
    assert found["é 🦊"].p_value == 1.0
    assert found["a"].verdict == found["b"].verdict == "improved"
