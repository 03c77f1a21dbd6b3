"""Holm's correction of p-values for the number of comparisons.

Holm (1979), "A simple sequentially rejective multiple test procedure".
"""

from __future__ import annotations

from collections.abc import Sequence

from statsmodels.stats.multitest import multipletests


def adjust(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p-values, in the same order.

    Args:
        p_values: one p-value for each comparison; may be empty.
    """
    if len(p_values) < 2:  # one stays as it is, and the library takes a fifth of a second
        return list(p_values)
    adjusted: list[float] = multipletests(p_values, method="holm")[1].tolist()
    return adjusted
