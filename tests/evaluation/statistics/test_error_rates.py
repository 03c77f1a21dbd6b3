"""Simulated truth: how often verdicts are wrong, gains are found, and intervals hold the gain.

Each simulation says how much the two models differ (discordance): the share of items that exactly
one of them answers correctly.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from tuneloop.evaluation.gates.ledger import alpha_of
from tuneloop.evaluation.statistics import intervals, paired
from tuneloop.evaluation.statistics.intervals import gain_interval, resampled_interval
from tuneloop.evaluation.statistics.paired import compare_scores, mcnemar_p, sign_flip_p
from tuneloop.evaluation.statistics.power import items_needed
from tuneloop.evaluation.statistics.sequential import look, wins_needed

PAIRS = 1_000


def draw_tables(seed: int, items: int, gain: float, discordance: float) -> np.ndarray:
    """Items won and lost by the tuned model: (pairs, 2)."""
    up, down = (discordance + gain) / 2, (discordance - gain) / 2
    rng = np.random.default_rng(seed)
    return rng.multinomial(items, (up, down, 1 - up - down), size=PAIRS)[:, :2]


def share(tables: np.ndarray, holds: np.ndarray) -> float:
    counts = np.unique(tables, axis=0, return_counts=True)[1]
    return float(counts[holds].sum()) / PAIRS


@pytest.mark.parametrize("discordance", [0.05, 0.2, 0.3, 0.5])
def test_equal_models_are_told_apart_in_at_most_5_percent(discordance: float) -> None:
    tables = draw_tables(11, 500, 0.0, discordance)
    wrong = [mcnemar_p(int(lost), int(won)) < 0.05 for won, lost in np.unique(tables, axis=0)]
    assert 0.005 < share(tables, np.array(wrong)) <= 0.05


@pytest.mark.parametrize(("discordance", "least"), [(0.2, 0.99), (0.3, 0.95), (0.5, 0.8)])
def test_a_gain_of_10_points_is_found_in_500_items(discordance: float, least: float) -> None:
    tables = draw_tables(12, 500, 0.1, discordance)
    found = [
        mcnemar_p(int(lost), int(won)) < 0.05 and won > lost
        for won, lost in np.unique(tables, axis=0)
    ]
    assert share(tables, np.array(found)) >= least


@pytest.mark.parametrize(
    ("items", "gain", "discordance"), [(500, 0.0, 0.3), (500, 0.1, 0.3), (100, 0.05, 0.15)]
)
def test_the_interval_holds_the_gain_of_independent_items(
    items: int, gain: float, discordance: float
) -> None:
    tables = draw_tables(13, items, gain, discordance)
    ends = [gain_interval(int(won), int(lost), items) for won, lost in np.unique(tables, axis=0)]
    holds = [low <= gain <= high for low, high in ends]
    assert 0.93 <= share(tables, np.array(holds)) <= 0.97


def draw_groups(seed: int, groups: int, size: int, gain: float, rounds: int) -> np.ndarray:
    """Differences of items in groups that share an effect: (rounds, groups * size)."""
    rng = np.random.default_rng(seed)
    effect = rng.choice([-0.25, 0.25], (rounds, groups, 1))
    up, down = 0.3 + (gain + effect) / 2, 0.3 - (gain + effect) / 2
    drawn = rng.random((rounds, groups, size))
    found = np.where(drawn < up, 1.0, np.where(drawn < up + down, -1.0, 0.0))
    return found.reshape(rounds, groups * size)


@pytest.mark.parametrize(("count", "size", "gain"), [(60, 5, 0.1), (20, 10, 0.0)])
def test_the_interval_holds_the_gain_of_items_in_groups(
    count: int, size: int, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 399)
    groups = np.repeat(np.arange(count), size)
    grouped = alone = 0
    for difference in draw_groups(14, count, size, gain, 500):
        low, high = resampled_interval(difference, groups, -1.0, 1.0)
        grouped += low <= gain <= high
        won, lost = int((difference > 0).sum()), int((difference < 0).sum())
        low, high = gain_interval(won, lost, count * size)
        alone += low <= gain <= high
    assert 0.93 <= grouped / 500 <= 0.97
    assert alone / 500 < 0.92  # as if the items were independent


def test_equal_models_on_groups_are_told_apart_in_at_most_5_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 599)
    groups = np.repeat(np.arange(40), 4)
    wrong = [sign_flip_p(one, groups) < 0.05 for one in draw_groups(15, 40, 4, 0.0, 500)]
    assert 0.01 < np.mean(wrong) <= 0.05


def test_a_small_gain_in_several_samples_is_found_more_often_than_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (intervals, paired):
        monkeypatch.setattr(module, "RESAMPLES", 399)
    rng = np.random.default_rng(16)
    base, items = rng.beta(1, 1, (50, 200)), np.arange(200)
    tuned = np.clip(base + 0.08, 0, 1)
    found = {1: 0, 8: 0}
    for samples in found:
        for before, after in zip(base, tuned, strict=True):
            first, second = (rng.binomial(samples, one) / samples for one in (before, after))
            found[samples] += compare_scores(first, second, items).verdict == "improved"
    assert found[8] > found[1] + 15


def test_the_bounds_of_the_gain_hold_at_every_look() -> None:
    rng = np.random.default_rng(17)
    held = 0
    for _ in range(80):
        difference = rng.choice([1.0, -1.0, 0.0], 150, p=(0.2, 0.1, 0.7))
        found = look(difference, np.arange(150))
        held += found.low <= 0.1 <= found.high
    assert held >= 76


def test_fifty_candidates_watched_after_every_item_pass_in_at_most_5_percent() -> None:
    """A thousand projects, none of which has a candidate that is better than its baseline."""
    projects, candidates, items = 1_000, 50, 150
    rng = np.random.default_rng(18)
    difficulty = rng.beta(0.6, 0.6, (projects, items)).astype(np.float32)
    base = rng.random((projects, items), np.float32) < difficulty
    wrong, naive = np.zeros(projects, bool), np.zeros(projects, bool)
    differ = []
    for number in range(1, candidates + 1):
        tuned = rng.random((projects, items), np.float32) < difficulty
        won, lost = (np.cumsum(one, 1, np.int16) for one in (tuned & ~base, base & ~tuned))
        differing = won + lost
        differ.append(differing[:, -1].mean() / items)
        for alpha, decided in ((alpha_of(number), wrong), (0.05, naive)):
            needed = wins_needed(alpha, items).astype(np.int16)[differing]
            decided |= (np.maximum(won, lost) >= needed).any(1)
    assert 0.2 < np.mean(differ) < 0.3
    assert 0.002 < wrong.mean() <= 0.05
    assert naive.mean() > 0.2  # each candidate with the whole alpha


@pytest.mark.parametrize(
    ("discordance", "at_80", "at_95"), [(0.2, 0.9, 0.6), (0.3, 0.85, 0.55), (0.4, 0.85, 0.55)]
)
def test_a_gain_of_10_points_is_decided_early(
    discordance: float, at_80: float, at_95: float
) -> None:
    """Half of the evaluations have ended with this share of the items of McNemar's test.

    At a power of 95 % the bar of 60 % holds. At 80 % no test that may be looked at any time can
    meet it: even the best bet, made by somebody who knows the gain and the discordance, needs 71 %.
    """
    rng, items = np.random.default_rng(19), 1_500
    needed = wins_needed(0.05, 900)
    up = (discordance + 0.1) / 2
    drawn = rng.random((PAIRS, items), np.float32)
    won = np.cumsum(drawn < up, 1, np.int16)
    differing = np.cumsum(drawn < discordance, 1, np.int16)
    reached = won >= needed[differing]
    after = np.where(reached.any(1), reached.argmax(1) + 1, items)
    median = float(np.median(after))
    fixed = {power: items_needed(0.1, discordance, power) or 0 for power in (0.8, 0.95)}
    assert 0.6 * fixed[0.8] < median <= at_80 * fixed[0.8]
    assert median <= at_95 * fixed[0.95]
    # The best bet: no other one has a higher expected logarithm of the capital (Kelly).
    capital = won * math.log1p(0.1 / discordance)
    capital = capital + (differing - won) * math.log1p(-0.1 / discordance)
    best = (capital >= math.log(2 / 0.05)).argmax(1) + 1
    assert 0.68 < np.median(best) / fixed[0.8] < 0.76
