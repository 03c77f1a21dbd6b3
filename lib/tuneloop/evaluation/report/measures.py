"""The smallest gain that a set can find."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tuneloop.evaluation.statistics.intervals import CONFIDENCE

POWER = 0.8


def detectable(differences: NDArray[np.float64]) -> float | None:
    """Return the smallest mean difference that a set like this one finds in four of five cases.

    Args:
        differences: difference of the credits of each item, float64 (items,).

    Returns:
        The difference, 0 to 1; None with fewer than two items.
    """
    if len(differences) < 2:
        return None
    # Without any difference the share of discordant items is not 0 but unknown: at most 3 / n.
    variance = max(float(differences.var(ddof=1)), 3 / len(differences) / 2)
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER))
    return min(1.0, z * math.sqrt(variance / len(differences)))
