"""Confidence intervals of shares, means and gains."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from tuneloop.evaluation.statistics.dtypes import Floats, Groups

CONFIDENCE = 0.95
RESAMPLES = 9_999
SEED = 20_260_101
"""Seed of resampling: a report that is built again has the same bytes."""
MAX_DISTINCT = 300
"""Number of different group totals above which the large-sample interval replaces resampling."""


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Compute the 95 % Wilson interval of a share; from 0 to 1 if the total is 0."""
    if not total:
        return 0.0, 1.0
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def gain_interval(improved: int, regressed: int, items: int) -> tuple[float, float]:
    """Compute the 95 % interval of the gain: a difference of two shares of the same items.

    It is the adjusted Wald interval of Bonett and Price (2012), which adds one item to each of the
    two counts. Unlike the plain Wald interval it keeps its confidence for small counts.
    """
    up, down, total = improved + 1, regressed + 1, items + 2
    gain = (up - down) / total
    error = math.sqrt(((up + down) / total - gain**2) / total)
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    return max(-1.0, gain - half), min(1.0, gain + half)


def mean_interval(values: Floats, groups: Groups) -> tuple[float, float]:
    """Compute the 95 % interval of one model's mean score.

    Args:
        values: (items,), 0 to 1.
        groups: (items,); items of one group are resampled together.

    Returns:
        The Wilson interval if all values are 0 or 1 and each item is its own group; otherwise the
        interval of `resampled_interval`.
    """
    if is_independent(groups) and is_binary(values):
        return share_interval(int(values.sum()), len(values))
    return resampled_interval(values, groups, 0.0, 1.0)


def resampled_interval(
    values: Floats, groups: Groups, least: float, most: float, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a mean; whole groups are resampled.

    One item at each end of the range is added, as Bonett and Price do for counts: without them the
    interval has no width where all values are equal. It is widened by the ratio of Student's to the
    normal quantile, because it would be too narrow for few groups.

    Equal groups are drawn together, as one multinomial count. This gives the distribution of
    scipy.stats.bootstrap at a cost that depends on the number of different group totals, not on the
    number of items.

    Args:
        values: (items,), at least one.
        groups: (items,).
        least: smallest possible value.
        most: largest possible value.
        confidence: confidence of the interval, 0 to 1; 95 % by default.

    Returns:
        The interval; the whole range if there is only one group.
    """
    sums, sizes = group_totals(values, groups)
    count = len(sums)
    if count == 1:
        return least, most
    sums, sizes = np.append(sums, (least, most)), np.append(sizes, (1.0, 1.0))
    pairs, counts = np.unique(np.column_stack((sums, sizes)), axis=0, return_counts=True)
    if len(pairs) > MAX_DISTINCT:
        low, high = _large_sample_interval(values, groups, confidence)
    else:
        rng = np.random.default_rng(SEED)
        drawn = rng.multinomial(len(sums), counts / len(sums), size=RESAMPLES)
        means = (drawn @ pairs[:, 0]) / (drawn @ pairs[:, 1])
        tails = np.array(((1 - confidence) / 2, (1 + confidence) / 2))
        wider = stats.t.ppf(tails[1], count - 1) / stats.norm.ppf(tails[1])
        wider *= math.sqrt(count / (count - 1))
        centre = sums.sum() / sizes.sum()
        low, high = centre + wider * (np.quantile(means, tails) - centre)
    return max(least, float(low)), min(most, float(high))


def _large_sample_interval(
    values: Floats, groups: Groups, confidence: float
) -> tuple[float, float]:
    from statsmodels.regression.linear_model import OLS  # takes a second to import

    fitted = OLS(values, np.ones(len(values))).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    ((low, high),) = fitted.conf_int(1 - confidence)
    return float(low), float(high)


def group_totals(values: Floats, groups: Groups) -> tuple[Floats, Floats]:
    """Return the sum of the values of each group, and the number of its items: (groups,) each."""
    _, codes = np.unique(groups, return_inverse=True)
    # Sums of thirds differ in the last digit by their order; equal totals have to be equal.
    sums = np.round(np.bincount(codes, weights=values), 9).astype(np.float64)
    return sums + 0.0, np.bincount(codes).astype(np.float64)


def is_binary(*values: Floats) -> bool:
    """Return whether all values are 0 or 1."""
    return all(bool(np.isin(each, (0.0, 1.0)).all()) for each in values)


def is_independent(groups: Groups) -> bool:
    """Return whether each item is a group of its own."""
    return len(np.unique(groups)) == len(groups)
