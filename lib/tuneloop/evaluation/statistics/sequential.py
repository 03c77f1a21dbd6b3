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
import hashlib
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tuneloop.evaluation.statistics.dtypes import Floats, Groups

ALPHA = 0.05
_SHARES = (np.arange(24) + 0.5) / 24
"""Shares of the capital that are bet."""
_LOG_WEIGHTS = 2 * np.log(_SHARES) + 5 * np.log1p(-_SHARES)
_LOG_WEIGHTS -= np.logaddexp.reduce(_LOG_WEIGHTS)
"""Weights of the shares: the distribution Beta(3, 6). Its mean, 1/3, is the best bet on a gain of
10 points where the models differ on 30 % of the items."""
_STEPS = 10_000
"""Bounds of the gain are multiples of 1 / _STEPS, rounded outwards."""

Decision = Literal["improved", "regressed", "undecided"]


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


def order_of_set(groups: Groups, sha256: str) -> Groups:
    """Return the random order of a set's items, which nobody can choose.

    Args:
        groups: (items,), group of every item of the set.
        sha256: digest of the set's file, which is the seed.

    Returns:
        (items,), numbers of items.
    """
    seed = hashlib.sha256(sha256.encode()).digest()[:8]
    return item_order(groups, int.from_bytes(seed, "big"))


def largest_group(groups: Groups) -> int:
    """Return the number of items of the largest group."""
    return int(np.bincount(np.unique(groups, return_inverse=True)[1]).max(initial=1))


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
    wins = np.arange(most + 1)[:, None]
    table = np.full((most + 1, most + 1), np.inf)
    for differing in range(most + 1):
        won = wins[: differing + 1]
        terms = won * np.log1p(_SHARES) + (differing - won) * np.log1p(-_SHARES)
        table[differing, : differing + 1] = np.logaddexp.reduce(terms + _LOG_WEIGHTS, axis=1)
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
    logs = np.cumsum(np.log1p(np.outer(won, _SHARES)), axis=0)
    return np.asarray(np.logaddexp.reduce(logs + _LOG_WEIGHTS, axis=1), dtype=np.float64)


def _lower_bound(sums: Floats, sizes: Floats, scale: float, threshold: float) -> float:
    """Find the largest gain that the capital has excluded at some look; -1 if there is none."""

    def is_open(step: int) -> bool:
        gain = step / _STEPS
        return float(_log_capital(sums, sizes, scale, gain).max()) < threshold

    # The first step is not -1 itself, at which the bets are not defined.
    steps = range(1 - _STEPS, _STEPS + 1)
    first_open = bisect_left(steps, True, key=is_open)
    return (steps[0] + first_open - 1) / _STEPS
