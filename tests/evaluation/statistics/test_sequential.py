from __future__ import annotations

import math

import numpy as np
import pytest

from tuneloop.evaluation.statistics.sequential import (
    _log_capital,
    item_order,
    look,
    watch,
    wins_needed,
)


def draw(rng: np.random.Generator, items: int, gain: float, discordance: float) -> np.ndarray:
    up, down = (discordance + gain) / 2, (discordance - gain) / 2
    return rng.choice([1.0, -1.0, 0.0], items, p=(up, down, 1 - up - down))


def test_a_fair_game_wins_nothing_on_average() -> None:
    # All sequences of 10 differences of -1 and 1: the mean capital of a martingale stays 1.
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 10)).reshape(10, -1).T
    capital = [math.exp(_log_capital(one, np.ones(10), 1.0, 0.0)[-1]) for one in signs]
    assert np.mean(capital) == pytest.approx(1.0)


def test_the_table_is_the_rule() -> None:
    rng, needed = np.random.default_rng(8), wins_needed(0.05, 80)
    for _ in range(20):
        steps = rng.choice([1.0, -1.0], 80, p=(0.75, 0.25))
        wins = np.cumsum(steps > 0)
        reached = np.flatnonzero(wins >= needed[1:])
        found = look(steps, np.arange(80))
        assert found.decided_after == (int(reached[0]) + 1 if len(reached) else None)
    assert needed[0] == 1 and needed[5] == 6  # five wins of five are not enough


def test_decisions_are_symmetric_and_bounds_agree_with_them() -> None:
    difference = draw(np.random.default_rng(9), 400, 0.2, 0.3)
    up, down = (look(sign * difference, np.arange(400)) for sign in (1, -1))
    assert (up.decision, down.decision) == ("improved", "regressed")
    assert up.decided_after == down.decided_after is not None
    assert (up.low, up.high) == pytest.approx((-down.high, -down.low))
    assert 0 < up.low < 0.2 < up.high < 0.5
    assert up.decided_after is not None
    before = look(difference[: up.decided_after - 1], np.arange(up.decided_after - 1))
    assert before.decision == "undecided" and before.low <= 0 < before.high


def test_batches_decide_as_the_whole_does_and_stop_there() -> None:
    difference = draw(np.random.default_rng(10), 600, 0.2, 0.3)
    batches = [(difference[n : n + 32], np.arange(n, n + 32)) for n in range(0, 576, 32)]
    found = watch(batches)
    whole = look(difference, np.arange(600))
    assert found.decision == whole.decision == "improved"
    assert found.decided_after == whole.decided_after is not None
    assert whole.decided_after is not None
    assert whole.decided_after <= found.items < whole.decided_after + 32 < 600


def test_nothing_is_known_without_items() -> None:
    found = look(np.empty(0), np.empty(0, np.int64))
    assert (found.decision, found.low, found.high) == ("undecided", -1.0, 1.0)
    assert watch([]) == found


def test_ties_are_no_evidence_against_equality_but_bound_the_gain() -> None:
    found = look(np.zeros(500), np.arange(500))
    assert (found.decision, found.evidence_improved) == ("undecided", 0.0)
    assert -0.1 < found.low < 0 < found.high < 0.1


def test_extreme_scores_have_bounds() -> None:
    found = look(np.ones(50), np.arange(50))
    assert found.decision == "improved" and 0.6 < found.low < 1 == found.high
    assert found.decided_after is not None and found.decided_after < 20


def test_the_order_is_random_and_keeps_groups_together() -> None:
    groups = np.array([0, 1, 0, 2, 3, 1, 4, 5, 6, 7])
    order = item_order(groups, 1)
    assert sorted(order) == list(range(10)) and order.tolist() != list(range(10))
    assert order.tolist() == item_order(groups, 1).tolist() != item_order(groups, 2).tolist()
    changes = np.count_nonzero(np.diff(groups[order]))
    assert changes == 7  # eight groups, one after the other
    assert item_order(np.empty(0, np.int64), 1).tolist() == []


def test_a_group_is_one_observation() -> None:
    alone = look(np.ones(40), np.arange(40))
    together = look(np.ones(40), np.repeat(np.arange(4), 10), largest=10)
    assert alone.decision == "improved" and together.decision == "undecided"
    with pytest.raises(ValueError, match="follow one another"):
        look(np.ones(3), np.array([0, 1, 0]))
