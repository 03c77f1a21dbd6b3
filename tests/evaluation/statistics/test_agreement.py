"""Kappa of reviewers, against published examples."""

from __future__ import annotations

import pytest

from tuneloop.evaluation.statistics.agreement import measure_agreement


def spread(counts: dict[tuple[str, str], int]) -> dict[str, dict[str, str]]:
    """Return one trace for each count of a pair of labels."""
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    return {str(n): {"ada": one, "bob": other} for n, (one, other) in enumerate(pairs)}


def test_the_example_of_cohens_kappa() -> None:
    # Wikipedia, "Cohen's kappa", simple example: 20, 5, 10 and 15 of 50 proposals, kappa 0.4.
    counts = {("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15}
    (pair,) = measure_agreement(spread(counts)).pairs
    assert (pair.traces, pair.same) == (50, 35)
    assert pair.kappa == pytest.approx(0.4)
    assert pair.low is not None
    assert pair.high is not None
    assert pair.low < 0.4 < pair.high


def test_one_label_alone_gives_no_kappa() -> None:
    (pair,) = measure_agreement(spread({("y", "y"): 5})).pairs
    assert (pair.same, pair.kappa, pair.low) == (5, None, None)


def test_fleiss_kappa_of_all_reviewers() -> None:
    # By hand: P = (1 + 1/3 + 1) / 3, Pe = (5/9)^2 + (4/9)^2.
    labels = {
        "a": {"u": "y", "v": "y", "w": "y"},
        "b": {"u": "y", "v": "n", "w": "y"},
        "c": {"u": "n", "v": "n", "w": "n"},
        "d": {"u": "y", "v": "n"},
    }
    found = measure_agreement(labels)
    agreed, chance = (1 + 1 / 3 + 1) / 3, (5 / 9) ** 2 + (4 / 9) ** 2
    assert found.group is not None
    assert (found.group.reviewers, found.group.traces) == (3, 3)
    assert found.group.kappa == pytest.approx((agreed - chance) / (1 - chance))
    assert [(pair.first, pair.second, pair.traces) for pair in found.pairs] == [
        ("u", "v", 4),
        ("u", "w", 3),
        ("v", "w", 3),
    ]
    assert measure_agreement({}).pairs == ()
