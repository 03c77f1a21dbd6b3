"""Two models on the same items: gain, interval, 2x2 table and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tuneloop.evaluation.statistics.dtypes import Floats, Groups
from tuneloop.evaluation.statistics.intervals import (
    MAX_DISTINCT,
    RESAMPLES,
    SEED,
    gain_interval,
    group_totals,
    is_binary,
    is_independent,
    resampled_interval,
)

SIGNIFICANT = 0.05
"""p-value below which a difference is reported as improved or regressed."""
Verdict = Literal["improved", "regressed", "no detectable difference"]


@dataclass(frozen=True)
class Table:
    """The 2x2 table of McNemar's test: number of items by which model answered correctly."""

    both: int
    only_base: int
    only_tuned: int
    neither: int


@dataclass(frozen=True)
class Comparison:
    """A tuned model compared with its base on the same items."""

    items: int
    groups: int
    """Number of independent groups; equal to `items` if each item is independent."""
    base: float
    """Mean score of the base model, 0 to 1."""
    tuned: float
    gain: float
    """Mean of the items' differences (tuned - base), -1 to 1."""
    low: float
    """Lower end of the 95 % interval of the gain."""
    high: float
    higher: int
    """Items on which the tuned model scores higher."""
    lower: int
    """Items on which the tuned model scores lower."""
    table: Table | None
    """None if a score is neither 0 nor 1, such as a mean of several samples."""
    p_value: float
    test: Literal["mcnemar", "sign_flip", "betting"]
    """`mcnemar`: exact McNemar test. `sign_flip`: its generalization to groups and to scores other
    than 0 and 1, which swaps the models' scores of whole groups. `betting`: the test that holds at
    any number of items."""

    @property
    def discordance(self) -> float:
        """Share of items on which the models score differently."""
        return (self.higher + self.lower) / self.items

    @property
    def verdict(self) -> Verdict:
        """Decide by the test at 5 %."""
        if self.p_value >= SIGNIFICANT or not self.gain:
            return "no detectable difference"
        return "improved" if self.gain > 0 else "regressed"


def compare_scores(base: Floats, tuned: Floats, groups: Groups) -> Comparison:
    """Compare two models on the same items.

    Args:
        base: (items,), scores of the base model, 0 to 1; at least one item.
        tuned: (items,), scores of the tuned model.
        groups: (items,); items of one group are not independent.
    """
    difference = tuned - base
    higher, lower = int((difference > 0).sum()), int((difference < 0).sum())
    table = table_of(base, tuned) if is_binary(base, tuned) else None
    total = len(base)
    if table is not None and is_independent(groups):
        p_value = mcnemar_p(lower, higher)
        low, high = gain_interval(higher, lower, total)
    else:
        p_value = sign_flip_p(difference, groups)
        low, high = resampled_interval(difference, groups, -1.0, 1.0)
    return Comparison(
        items=total,
        groups=len(np.unique(groups)),
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        gain=(higher - lower) / total if table is not None else float(difference.mean()),
        low=low,
        high=high,
        higher=higher,
        lower=lower,
        table=table,
        p_value=p_value,
        test="mcnemar" if table is not None and is_independent(groups) else "sign_flip",
    )


def table_of(base: Floats, tuned: Floats) -> Table:
    """Count the items by which model answered correctly; a score of 1 is correct."""
    right, right_tuned = base == 1, tuned == 1
    return Table(
        both=int((right & right_tuned).sum()),
        only_base=int((right & ~right_tuned).sum()),
        only_tuned=int((~right & right_tuned).sum()),
        neither=int((~right & ~right_tuned).sum()),
    )


def mcnemar_p(only_base: int, only_tuned: int) -> float:
    """Compute the p-value of the exact two-sided McNemar test; 1 if no item differs."""
    if not only_base + only_tuned:
        return 1.0
    return float(stats.binomtest(only_tuned, only_base + only_tuned).pvalue)


def sign_flip_p(difference: Floats, groups: Groups) -> float:
    """Compute the two-sided p-value of the sign-flip test of group totals.

    If the models are equal, the two scores of a group may be swapped, which flips the sign of its
    total. For independent scores of 0 and 1 this is the exact McNemar test. Totals of equal size
    are flipped together, as one binomial count: the distribution is that of
    scipy.stats.permutation_test(permutation_type="samples").

    Args:
        difference: (items,), tuned - base.
        groups: (items,).
    """
    totals, _ = group_totals(difference, groups)
    observed = abs(float(totals.sum()))
    sizes, counts = np.unique(np.abs(totals[totals != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    if len(sizes) > MAX_DISTINCT:  # so many groups that the distribution is normal
        error = float(np.sqrt((totals**2).sum()))
        return float(2 * stats.norm.sf(observed / error))
    rng = np.random.default_rng(SEED)
    positive = rng.binomial(counts, 0.5, size=(RESAMPLES, len(sizes)))
    flipped = np.abs((2 * positive - counts) @ sizes)
    # The tolerance counts sums that are equal up to rounding as equal.
    return float((1 + (flipped >= observed - 1e-9).sum()) / (RESAMPLES + 1))
