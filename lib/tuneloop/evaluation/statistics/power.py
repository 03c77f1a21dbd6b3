"""How many items a comparison needs, and which gain a number of items can show.

Power is that of the exact two-sided McNemar test. Only the items on which the models differ count,
and their number is random; power is the mean over it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from tuneloop.evaluation.statistics.dtypes import Floats
from tuneloop.evaluation.statistics.paired import SIGNIFICANT

MAX_ITEMS = 10_000_000
POWER = 0.8
CORRELATION = 0.5
"""Assumed correlation of two models' answers. Published evaluations have 0.3 to 0.7 (Miller 2024,
"Adding Error Bars to Evals")."""
_TAIL = 1e-9
"""Probability of numbers of differing items that are not looked at."""


def discordance_of(base: float, gain: float, correlation: float = CORRELATION) -> float:
    """Compute the share of items that exactly one of two models answers correctly.

    Args:
        base: accuracy of the base model, 0 to 1.
        gain: accuracy of the tuned model minus `base`.
        correlation: correlation of the two models' answers.

    Returns:
        A share; at least |gain|, and at most what the two accuracies allow.
    """
    tuned = base + gain
    covariance = correlation * math.sqrt(base * (1 - base) * tuned * (1 - tuned))
    both = min(base * tuned + covariance, base, tuned)
    return base + tuned - 2 * max(both, base + tuned - 1, 0.0)


def power_of(items: int, gain: float, discordance: float, alpha: float = SIGNIFICANT) -> float:
    """Compute the probability that the test finds a gain.

    Args:
        items: number of items.
        gain: true gain, with 0 < gain <= discordance.
        discordance: true share of items on which the models differ.
        alpha: two-sided significance level.
    """
    least, most = stats.binom.ppf((_TAIL, 1 - _TAIL), items, discordance)
    differing = np.arange(int(least), int(most) + 1)
    weights = stats.binom.pmf(differing, items, discordance)
    # The largest number of losses with which the test still decides; -1 if it never does.
    losses = stats.binom.ppf(alpha / 2, differing, 0.5)
    losses -= stats.binom.cdf(losses, differing, 0.5) > alpha / 2
    win = (discordance + gain) / (2 * discordance)
    return float(weights @ stats.binom.cdf(losses, differing, 1 - win))


def items_needed(
    gain: float, discordance: float, power: float = POWER, alpha: float = SIGNIFICANT
) -> int | None:
    """Compute the number of items with which the test finds a gain with the given power.

    Args:
        gain: true gain, with 0 < gain <= discordance.
        discordance: true share of items on which the models differ.
        power: probability of finding it, below 1.
        alpha: two-sided significance level.

    Returns:
        The number; None if it is above `MAX_ITEMS`.
    """
    # Connor (1987), "Sample size for testing differences in proportions for the paired-sample
    # design": the exact test needs a little more.
    z_alpha, z_power = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)
    spread = z_alpha * math.sqrt(discordance) + z_power * math.sqrt(discordance - gain**2)
    guess = max(1, int((spread / gain) ** 2))
    if guess > MAX_ITEMS:
        return None
    low, high = 0, guess
    while power_of(high, gain, discordance, alpha) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(middle, gain, discordance, alpha) < power:
            low = middle
        else:
            high = middle
    return high


def detectable_gain(
    items: int, discordance: float, power: float = POWER, alpha: float = SIGNIFICANT
) -> float | None:
    """Compute the smallest gain that a number of items shows with the given power.

    Args:
        items: number of items.
        discordance: share of items on which the models differ, above 0.
        power: probability of finding the gain, below 1.
        alpha: two-sided significance level.

    Returns:
        The gain; None if even a gain as large as the discordance is not found, because too few
        items differ.
    """

    def missing(gain: float) -> float:
        return power_of(items, gain, discordance, alpha) - power

    if items < 1 or not 0 < discordance <= 1 or missing(discordance) < 0:
        return None
    return float(optimize.brentq(missing, 1e-9, discordance, xtol=1e-6))


def detectable_like(differences: Floats) -> float | None:
    """Compute the smallest gain that a set like one that was asked shows with power `POWER`.

    Like it has as many items and the same discordance. If so few items differ that no gain is
    found at this discordance, only a model that differs on more of them is found better, and the
    gain is that of one without a loss. Groups are not taken into account.

    Args:
        differences: (items,), difference of the two models' credits, -1 to 1.

    Returns:
        The gain, 0 to 1; None with so few items that not even a gain of 1 is found.
    """
    items, differing = len(differences), differences[differences != 0]
    # Differences of a part of the credit count as wins and losses of their quadratic mean.
    unit = float(np.sqrt(np.mean(differing**2))) if len(differing) else 1.0
    gain = detectable_gain(items, len(differing) / items) if len(differing) else None
    if gain is not None:
        return unit * gain
    least = math.ceil(math.log2(2 / SIGNIFICANT))  # wins without a loss that the test needs
    return unit * float(stats.beta.ppf(POWER, least, items - least + 1)) if items >= least else None
