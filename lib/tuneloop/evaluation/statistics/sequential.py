"""A paired test that may be looked at any time, and the confidence sequence of the gain.

Each look bets on the next items with capital that starts at 1. If the models are equal, capital
reaches 1/alpha with a probability of at most alpha, however often somebody looks and whenever they
stop (Ville's inequality). Capital is multiplied by 1 + c * difference for each item; the share c
that is bet is averaged over a fixed distribution. This is the betting test of Waudby-Smith and
Ramdas (2024), "Estimating means of bounded random variables by betting", with a mixture instead of
a plug-in bet. For scores of 0 and 1 only the items on which the models differ matter, as in
McNemar's test.

Items have to come in random order: `item_order`, never the order of a file.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from tuneloop.evaluation.statistics.intervals import Floats, Groups

ALPHA = 0.05
_PRIOR = (3.0, 6.0)
"""Beta distribution of the share that is bet. Its mean, 1/3, is the best bet on a gain of 10 points
where the models differ on 30 % of the items."""
_NODES = 16
_PRECISION = 1e-6

Decision = Literal["improved", "regressed", "undecided"]


def _shares() -> Floats:
    quantiles = (np.arange(_NODES) + 0.5) / _NODES
    return np.asarray(stats.beta.ppf(quantiles, *_PRIOR), dtype=np.float64)


@dataclass(frozen=True)
class Look:
    """What is known after some of the items."""

    items: int
    """Items looked at."""
    decision: Decision
    low: float
    """Lower end of the gain's confidence sequence, -1 to 1. With probability 1 - alpha the gain is
    above it at every look."""
    high: float
    evidence_improved: float
    """Largest natural logarithm so far of the capital that bet on an improvement."""
    evidence_regressed: float
    decided_after: int | None
    """Items after which the decision was known; None while undecided."""


def item_order(groups: Groups, seed: int) -> NDArray[np.int64]:
    """Return a random order of the items that keeps groups together.

    Args:
        groups: (items,), number of each item's group.
        seed: the same seed gives the same order.

    Returns:
        (items,), numbers of items.
    """
    _, codes = np.unique(groups, return_inverse=True)
    places = np.random.default_rng(seed).permutation(int(codes.max(initial=-1)) + 1)
    return np.argsort(places[codes], kind="stable").astype(np.int64)


def look(difference: Floats, groups: Groups, alpha: float = ALPHA, *, largest: int = 1) -> Look:
    """Decide as early as the items allow, and bound the gain.

    Half of alpha goes to each direction. A group is one observation, so its items have to be
    complete.

    Args:
        difference: (items,), tuned - base, -1 to 1, in the order of `item_order`; may be empty.
        groups: (items,), number of each item's group; items of a group follow one another.
        alpha: probability of a wrong decision, and of a gain outside the bounds, over all looks.
        largest: items of the largest group of the whole set. It has to be known before the first
            look; a larger group among the items counts too.
    """
    sums, sizes = _totals_in_order(difference, groups)
    if not len(sums):
        return Look(0, "undecided", -1.0, 1.0, 0.0, 0.0, None)
    scale = max(float(largest), float(sizes.max()))
    threshold = math.log(2 / alpha)
    ends = np.cumsum(sizes).astype(np.int64)
    found: dict[Decision, int] = {}
    evidence: dict[Decision, float] = {}
    signs: dict[Decision, float] = {"improved": 1.0, "regressed": -1.0}
    for name, sign in signs.items():
        capital = _log_capital(sign * sums, sizes, scale, 0.0)
        evidence[name] = max(0.0, float(capital.max()))
        reached = np.flatnonzero(capital >= threshold)
        if len(reached):
            found[name] = int(ends[reached[0]])
    decision: Decision = min(found, key=found.__getitem__) if found else "undecided"
    return Look(
        items=int(ends[-1]),
        decision=decision,
        low=_lower_bound(sums, sizes, scale, threshold),
        high=-_lower_bound(-sums, sizes, scale, threshold),
        evidence_improved=evidence["improved"],
        evidence_regressed=evidence["regressed"],
        decided_after=found.get(decision),
    )


def watch(
    batches: Sequence[tuple[Floats, Groups]], alpha: float = ALPHA, *, largest: int = 1
) -> Look:
    """Look after each batch and stop with the first decision.

    Args:
        batches: (difference, groups) of each batch; together they are in the order of `item_order`.
        alpha: as for `look`.
        largest: as for `look`.
    """
    differences, groups = np.empty(0), np.empty(0, np.int64)
    found = look(differences, groups, alpha, largest=largest)
    for difference, group in batches:
        differences, groups = np.append(differences, difference), np.append(groups, group)
        found = look(differences, groups, alpha, largest=largest)
        if found.decision != "undecided":
            break
    return found


def wins_needed(alpha: float, most: int) -> NDArray[np.int64]:
    """Tabulate the decision rule for independent scores of 0 and 1.

    Args:
        alpha: as for `look`.
        most: largest number of items on which the models differ.

    Returns:
        (most + 1,): for each number of items on which the models differ, the least number of them
        that only the tuned model has to answer correctly; more than that number if even all of
        them do not decide.
    """
    undecided = _capital_of_wins(most) < math.log(2 / alpha)
    return np.asarray(undecided.sum(axis=1), dtype=np.int64)


@functools.lru_cache(maxsize=2)
def _capital_of_wins(most: int) -> Floats:
    """Tabulate the logarithm of the capital; rows: items that differ, columns: wins among them."""
    shares, wins = _shares(), np.arange(most + 1)[:, None]
    table = np.full((most + 1, most + 1), np.inf)
    for differing in range(most + 1):
        won = wins[: differing + 1]
        terms = won * np.log1p(shares) + (differing - won) * np.log1p(-shares)
        table[differing, : differing + 1] = special.logsumexp(terms, axis=1) - math.log(_NODES)
    return table


def _totals_in_order(difference: Floats, groups: Groups) -> tuple[Floats, Floats]:
    if not len(difference):
        return np.empty(0), np.empty(0)
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    if len(starts) != len(np.unique(groups)):
        raise ValueError("items of one group do not follow one another, expected `item_order`")
    sums = np.add.reduceat(difference, starts)
    sizes = np.diff(np.append(starts, len(difference))).astype(np.float64)
    return sums, sizes


def _log_capital(sums: Floats, sizes: Floats, scale: float, gain: float) -> Floats:
    """Compute the capital after each group, betting that the gain is above `gain`.

    It falls as `gain` rises, so the gains that it does not exclude are an interval.

    Returns:
        (groups,), natural logarithms.
    """
    # At least -1: the most that a group can lose is its size times 1 + gain.
    won = (sums - gain * sizes) / (scale * (1 + gain))
    logs = np.log1p(np.outer(won, _shares()))
    capital = special.logsumexp(np.cumsum(logs, axis=0), axis=1) - math.log(_NODES)
    return np.asarray(capital, dtype=np.float64)


def _lower_bound(sums: Floats, sizes: Floats, scale: float, threshold: float) -> float:
    """Find the largest gain that the capital has excluded at some look; -1 if there is none."""

    def excess(gain: float) -> float:
        return float(_log_capital(sums, sizes, scale, gain).max()) - threshold

    return _root(excess, -1 + 1e-9, 1.0)


def _root(falling: Callable[[float], float], least: float, most: float) -> float:
    if falling(least) <= 0:
        return -1.0
    if falling(most) > 0:
        return 1.0
    return float(optimize.brentq(falling, least, most, xtol=_PRECISION))
