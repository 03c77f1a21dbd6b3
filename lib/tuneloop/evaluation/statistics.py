"""Statistics of the base and the tuned model on the same items, computed with scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats

from tuneloop.artifacts.delta_report import Accuracy, Outcome, Paired

CONFIDENCE = 0.95


def accuracy(outcomes: Sequence[Outcome]) -> Accuracy:
    """Count outcomes and compute the 95 % confidence interval of the accuracy.

    It is the Wilson interval (scipy.stats.binomtest), which never leaves the range from 0 to 1.

    Args:
        outcomes: at least one outcome.
    """
    correct = outcomes.count("correct")
    low, high = share_interval(correct, len(outcomes))
    return Accuracy(
        correct=correct,
        wrong=outcomes.count("wrong"),
        no_answer=outcomes.count("no_answer"),
        low=low,
        high=high,
    )


def compare(base: Sequence[Outcome], tuned: Sequence[Outcome]) -> Paired:
    """Compare the models' outcomes with the exact McNemar test.

    Args:
        base: outcomes of the base model.
        tuned: outcomes of the tuned model for the same items in the same order.
    """
    pairs = [(b == "correct", t == "correct") for b, t in zip(base, tuned, strict=True)]
    improved, regressed = pairs.count((False, True)), pairs.count((True, False))
    discordant = improved + regressed
    p_value = float(stats.binomtest(improved, discordant).pvalue) if discordant else 1.0
    low, high = gain_interval(improved, regressed, len(pairs))
    return Paired(
        improved=improved, regressed=regressed, p_value=p_value, gain_low=low, gain_high=high
    )


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


def share_interval(count: int, total: int) -> tuple[float, float]:
    """Compute the 95 % Wilson interval of a share; from 0 to 1 if the total is 0."""
    if not total:
        return 0.0, 1.0
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)
