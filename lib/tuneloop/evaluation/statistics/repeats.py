"""Several samples per item: pass@k, pass^k, and how often a model contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from tuneloop.evaluation.statistics.dtypes import Counts, Floats
from tuneloop.evaluation.statistics.intervals import share_interval


def pass_at_k(correct: Counts, samples: Counts, k: int) -> Floats:
    """Estimate for each item the probability that at least one of k samples is correct.

    The estimator 1 - C(n-c, k) / C(n, k) is unbiased (Chen et al. 2021, "Evaluating Large Language
    Models Trained on Code").

    Args:
        correct: (items,), number of correct samples.
        samples: (items,), number of samples; at least k.
        k: number of tries, at least 1.

    Returns:
        (items,), 0 to 1; their mean is the figure of the set.
    """
    _check(samples, k)
    return np.asarray(1 - stats.hypergeom.pmf(0, samples, correct, k), dtype=np.float64)


def pass_hat_k(correct: Counts, samples: Counts, k: int) -> Floats:
    """Estimate for each item the probability that all of k samples are correct: pass^k.

    The estimator C(c, k) / C(n, k) is unbiased (Yao et al. 2024, "tau-bench").

    Args:
        correct: (items,), number of correct samples.
        samples: (items,), number of samples; at least k.
        k: number of tries, at least 1.

    Returns:
        (items,), 0 to 1; their mean is the figure of the set.
    """
    _check(samples, k)
    return np.asarray(stats.hypergeom.pmf(k, samples, correct, k), dtype=np.float64)


def _check(samples: Counts, k: int) -> None:
    if k < 1 or (len(samples) and int(samples.min()) < k):
        raise ValueError(f"k is {k}, expected 1 to the least number of samples of an item")


def flip_probability(correct: Counts, samples: Counts) -> Floats:
    """Estimate for each item the probability that two samples of one model differ in correctness.

    Args:
        correct: (items,), number of correct samples.
        samples: (items,), number of samples; at least 2.

    Returns:
        (items,), 0 to 1.
    """
    _check(samples, 2)
    return np.asarray(2 * correct * (samples - correct) / (samples * (samples - 1)))


@dataclass(frozen=True)
class Flips:
    """Two evaluations of the same model: the noise floor of any comparison."""

    items: int
    flipped: int
    """Items with different scores."""
    low: float
    """Lower end of the 95 % interval of the flip rate."""
    high: float
    gain: float
    """Mean difference (second - first) between the two evaluations, -1 to 1."""

    @property
    def rate(self) -> float:
        """Flipped items over all items."""
        return self.flipped / self.items


def count_flips(first: Floats, second: Floats) -> Flips:
    """Compare two evaluations of the same model on the same items.

    Args:
        first: (items,), scores, 0 to 1; at least one item.
        second: (items,), scores of the repeat.
    """
    flipped = int((first != second).sum())
    low, high = share_interval(flipped, len(first))
    return Flips(len(first), flipped, low, high, float((second - first).mean()))
