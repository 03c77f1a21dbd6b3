"""Statistics of a set whose evaluation may stop early: they hold at any number of items.

The statistics in `paired.py` and `intervals.py` take the number of items as fixed before the first
answer. If the answers decide when to stop, they are too optimistic. Those here come from the
betting test in `sequential.py` and stay valid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tuneloop.evaluation.statistics.dtypes import Floats, Groups
from tuneloop.evaluation.statistics.intervals import is_binary
from tuneloop.evaluation.statistics.paired import Comparison, table_of
from tuneloop.evaluation.statistics.sequential import ALPHA, look


@dataclass(frozen=True)
class RandomOrder:
    """The random order in which the items of a set are asked."""

    places: Groups
    """(items,), place of each item; places of items that were not asked are missing."""
    largest: int = 1
    """Items of the largest group of the whole set."""

    @property
    def ranks(self) -> Groups:
        """(items,), numbers of the items in their random order."""
        return np.argsort(self.places, kind="stable").astype(np.int64)

    def take(self, rows: Groups) -> RandomOrder:
        """Return the order of some of the items."""
        return RandomOrder(self.places[rows], self.largest)


def compare_anytime(
    base: Floats, tuned: Floats, groups: Groups, order: RandomOrder, alpha: float = ALPHA
) -> Comparison:
    """Compare two models on items whose number the answers may have decided.

    Args:
        base: (items,), scores of the base model, 0 to 1; at least one item.
        tuned: (items,), scores of the tuned model.
        groups: (items,).
        order: order in which the items were asked.
        alpha: probability of a gain outside the interval, at any number of items.

    Returns:
        The comparison. Its interval is the confidence sequence of the gain. Its p-value is twice
        the inverse of the larger capital of the test's two sides.
    """
    ranks, difference = order.ranks, tuned - base
    found = look(difference[ranks], groups[ranks], alpha, largest=order.largest)
    evidence = max(found.evidence_improved, found.evidence_regressed)
    higher, lower = int((difference > 0).sum()), int((difference < 0).sum())
    table = table_of(base, tuned) if is_binary(base, tuned) else None
    return Comparison(
        items=len(base),
        groups=len(np.unique(groups)),
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        gain=(higher - lower) / len(base) if table is not None else float(difference.mean()),
        low=found.low,
        high=found.high,
        higher=higher,
        lower=lower,
        table=table,
        p_value=min(1.0, 2 * math.exp(-evidence)),
        test="betting",
    )


def mean_bounds(
    values: Floats, groups: Groups, order: RandomOrder, alpha: float = ALPHA
) -> tuple[float, float]:
    """Compute the confidence sequence of one model's mean score.

    Args:
        values: (items,), 0 to 1.
        groups: (items,).
        order: order in which the items were asked.
        alpha: probability of a mean outside the bounds, at any number of items.
    """
    ranks = order.ranks
    # The bounds of `look` are those of a mean from -1 to 1.
    found = look(2 * values[ranks] - 1, groups[ranks], alpha, largest=order.largest)
    return (1 + found.low) / 2, (1 + found.high) / 2
