from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tuneloop.evaluation.statistics.intervals import share_interval
from tuneloop.evaluation.statistics.repeats import (
    count_flips,
    flip_probability,
    pass_at_k,
    pass_hat_k,
)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_estimators_are_the_mean_over_all_choices_of_k_samples(k: int) -> None:
    samples = [[1, 0, 1, 1, 0], [0] * 5, [1] * 5, [0, 0, 1, 0, 0]]
    correct = np.array([sum(one) for one in samples])
    chosen = [list(combinations(one, k)) for one in samples]
    size = np.full(4, 5)
    assert pass_at_k(correct, size, k) == pytest.approx([np.mean([*map(any, c)]) for c in chosen])
    assert pass_hat_k(correct, size, k) == pytest.approx([np.mean([*map(all, c)]) for c in chosen])


def test_items_may_have_different_numbers_of_samples_and_many_of_them() -> None:
    correct, samples = np.array([1, 2000]), np.array([2, 4000])
    assert pass_at_k(correct, samples, 2) == pytest.approx([1.0, 0.75], abs=1e-3)
    assert pass_hat_k(correct, samples, 2) == pytest.approx([0.0, 0.25], abs=1e-3)


def test_more_tries_than_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="k is 3"):
        pass_at_k(np.array([1, 1]), np.array([4, 2]), 3)
    with pytest.raises(ValueError, match="k is 0"):
        pass_hat_k(np.array([1]), np.array([4]), 0)


def test_two_samples_differ_as_often_as_their_pairs() -> None:
    found = flip_probability(np.array([0, 4, 2, 1]), np.array([4, 4, 4, 2]))
    assert found == pytest.approx([0, 0, 4 / 6, 1])


def test_the_noise_floor_counts_flips_in_both_directions() -> None:
    first, second = np.array([1.0, 0, 1, 1, 0]), np.array([0.0, 1, 1, 1, 0])
    found = count_flips(first, second)
    assert (found.flipped, found.rate, found.gain) == (2, 0.4, 0.0)
    assert (found.low, found.high) == share_interval(2, 5)
