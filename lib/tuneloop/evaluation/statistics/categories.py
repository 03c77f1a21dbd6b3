"""Comparison of two models in each category, with p-values adjusted for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuneloop.evaluation.statistics.anytime import RandomOrder, compare_anytime
from tuneloop.evaluation.statistics.dtypes import Floats, Groups
from tuneloop.evaluation.statistics.holm import adjust
from tuneloop.evaluation.statistics.paired import SIGNIFICANT, Comparison, Verdict, compare_scores

MIN_ITEMS = 10
"""Fewest items of a category that is tested."""


@dataclass(frozen=True)
class Category:
    """Two models in one category."""

    name: str
    comparison: Comparison
    """Its `p_value` is not adjusted."""
    p_value: float | None
    """Adjusted by Holm's method for the number of tested categories; None below 10 items."""

    @property
    def verdict(self) -> Verdict:
        """Decide by the adjusted p-value at 5 %."""
        if self.p_value is None or self.p_value >= SIGNIFICANT:
            return "no detectable difference"
        return self.comparison.verdict


def compare_categories(
    base: Floats,
    tuned: Floats,
    groups: Groups,
    categories: Sequence[str],
    order: RandomOrder | None = None,
) -> tuple[Category, ...]:
    """Compare two models in each category, in the order of the categories' names.

    Args:
        base: (items,), scores of the base model, 0 to 1.
        tuned: (items,), scores of the tuned model.
        groups: (items,).
        categories: name of each item's category.
        order: order in which the items were asked, if the answers may have decided their number.
    """
    names, codes = np.unique(np.asarray(categories, dtype=object), return_inverse=True)
    found = []
    for code in range(len(names)):
        chosen = np.flatnonzero(codes == code)
        own = base[chosen], tuned[chosen], groups[chosen]
        found.append(
            compare_scores(*own) if order is None else compare_anytime(*own, order.take(chosen))
        )
    tested = [n for n, one in enumerate(found) if one.items >= MIN_ITEMS]
    adjusted = dict(zip(tested, adjust([found[n].p_value for n in tested]), strict=True))
    return tuple(
        Category(str(name), one, adjusted.get(n))
        for n, (name, one) in enumerate(zip(names, found, strict=True))
    )
