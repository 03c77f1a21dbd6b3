"""Two arms of an experiment that is repeated with several seeds, on the same items.

A difference can be luck in two ways: the seeds may have favoured an arm, or the questions may. The
interval allows for both. It combines the interval over the seeds and that over the items as limits
of a sum of independent parts: MOVER, Zou and Donner (2008), "Construction of confidence limits
about effect measures: a general approach", Statistics in Medicine 27. The noise of single answers
is in both parts, so the interval is rather too wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from tuneloop.evaluation.statistics.dtypes import Floats, Groups
from tuneloop.evaluation.statistics.intervals import CONFIDENCE, resampled_interval
from tuneloop.evaluation.statistics.paired import Verdict

Source = Literal["seeds", "items"]


@dataclass(frozen=True)
class ReplicatedComparison:
    """One arm compared with another one over all seeds."""

    seeds: int
    items: int
    gain: float
    """Mean difference of the scores (arm - other), -1 to 1."""
    low: float
    """Lower end of the interval of the gain, -1 to 1."""
    high: float
    by_seed: tuple[float, ...]
    """Mean difference of each seed, in the order of the seeds."""
    widest: Source
    """The larger part of the interval: the differences between seeds, or those between items. With
    one seed there are only the items, and nothing is known about other seeds."""

    @property
    def verdict(self) -> Verdict:
        """Decide by the interval: it has to exclude 0."""
        if self.low > 0:
            return "improved"
        return "regressed" if self.high < 0 else "no detectable difference"


def compare_replicates(
    other: Floats, arm: Floats, groups: Groups, *, statements: int = 1
) -> ReplicatedComparison:
    """Compare two arms over all seeds.

    Args:
        other: (seeds, items), scores of the arm that is compared with, 0 to 1; at least one of
            each.
        arm: (seeds, items), scores of the arm; the same seeds and items.
        groups: (items,), number of each item's group; items of a group are not independent.
        statements: number of comparisons that are read together. All of their intervals hold at the
            same time with 95 % confidence, because each has the confidence 1 - 5 % / statements
            (Bonferroni).

    Returns:
        The comparison. Its interval combines two: Student's t interval of the seeds' mean
        differences, and the interval of the items' differences averaged over the seeds.
    """
    difference = arm - other
    by_seed = difference.mean(axis=1)
    gain = float(by_seed.mean())
    confidence = 1 - (1 - CONFIDENCE) / statements
    of_items = resampled_interval(difference.mean(axis=0), groups, -1.0, 1.0, confidence)
    found: dict[Source, tuple[float, float]] = {"items": of_items}
    if len(by_seed) > 1:
        found["seeds"] = _seed_interval(by_seed, confidence)
    widest = max(found, key=lambda source: found[source][1] - found[source][0])
    low = gain - math.hypot(*(max(0.0, gain - low) for low, _ in found.values()))
    high = gain + math.hypot(*(max(0.0, high - gain) for _, high in found.values()))
    return ReplicatedComparison(
        seeds=len(by_seed),
        items=difference.shape[1],
        gain=gain,
        low=max(-1.0, low),
        high=min(1.0, high),
        by_seed=tuple(map(float, by_seed)),
        widest=widest,
    )


def _seed_interval(by_seed: Floats, confidence: float) -> tuple[float, float]:
    """Compute Student's t interval of the mean; without width if all seeds agree."""
    mean, error = float(by_seed.mean()), float(stats.sem(by_seed))
    if error == 0 or not np.isfinite(error):
        return mean, mean
    low, high = stats.t.interval(confidence, len(by_seed) - 1, loc=mean, scale=error)
    return float(low), float(high)
