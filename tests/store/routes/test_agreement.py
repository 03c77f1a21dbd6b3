"""Krippendorff's alpha of reviewers, against published examples and by hand."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.store.db.labels import StoredLabel
from tuneloop.store.routes import agreement
from tuneloop.store.routes.agreement import Agreement, measure_agreement

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def measure(labels: dict[str, dict[str, str]]) -> Agreement:
    """Compare (reviewer -> trace -> value)."""
    rows = [
        StoredLabel(0, trace, "review", f'"{value}"', who, "", NOW)
        for who, by in labels.items()
        for trace, value in by.items()
    ]
    return measure_agreement(rows)


def test_the_published_example_with_missing_labels() -> None:
    # Krippendorff, "Computing Krippendorff's alpha-reliability", example C: nominal alpha 0.743.
    values = {
        "a": "123321412...",
        "b": "1233224125.3",
        "c": ".3332342251.",
        "d": "12332441251.",
    }
    found = measure(
        {
            who: {str(n): value for n, value in enumerate(row) if value != "."}
            for who, row in values.items()
        }
    )
    assert found.group is not None
    assert (found.group.reviewers, found.group.traces) == (4, 11)
    assert found.group.alpha == pytest.approx(0.743, abs=0.0005)
    counts = {(pair.first, pair.second): (pair.traces, pair.same) for pair in found.pairs}
    assert counts[("a", "b")] == (9, 8)
    assert counts[("c", "d")] == (10, 7)
    assert [pair.traces for pair in found.pairs] == sorted(
        (pair.traces for pair in found.pairs), reverse=True
    )


def test_nobody_needs_to_label_every_trace() -> None:
    # By hand, for traces of two labels: 2 x 2 differ of 6; by chance 2 x 3 x 3 / 5 would.
    found = measure(
        {"ada": {"1": "y", "2": "y"}, "bob": {"2": "n", "3": "n"}, "eve": {"1": "y", "3": "n"}}
    )
    assert found.group is not None
    assert (found.group.reviewers, found.group.traces) == (3, 3)
    assert found.group.alpha == pytest.approx(1 - 2 / (2 * 3 * 3 / 5))
    assert [(pair.traces, pair.same) for pair in found.pairs] == [(1, 0), (1, 1), (1, 1)]
    assert [pair.alpha for pair in found.pairs] == [0, None, None]


def test_labels_by_chance_have_an_alpha_around_zero() -> None:
    draw = random.Random(5)
    whos = [f"r{n}" for n in range(20)]
    found = measure({who: {str(n): draw.choice("ars") for n in range(500)} for who in whos})
    assert found.group is not None
    assert found.group.alpha == pytest.approx(0, abs=0.02)
    assert len(found.pairs) == 12 * 11 / 2


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"ada": {"1": "y"}},
        {"ada": {"1": "y"}, "bob": {"2": "y"}},
        {"ada": {"1": "y"}, "bob": {"1": "skip"}},
    ],
)
def test_without_two_labels_of_a_trace_there_is_nothing(labels: dict[str, dict[str, str]]) -> None:
    assert measure(labels) == Agreement(pairs=[], group=None, is_cut=False)


def test_one_value_has_counts_without_alpha_and_any_number_of_values_has_one() -> None:
    # The value that only one reviewer gave, to a trace of one label, is no second value.
    same = measure({"ada": {"1": "y", "2": "y", "3": "n"}, "bob": {"1": "y", "2": "y"}})
    assert [(pair.traces, pair.same, pair.alpha) for pair in same.pairs] == [(2, 2, None)]
    texts = {who: {str(n): f"{who}{n} 👩🏽‍🚀" for n in range(500)} for who in ("ada", "بوب")}
    found = measure(texts)
    assert [(pair.traces, pair.same, pair.alpha) for pair in found.pairs] == [(500, 0, 0)]


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=2, max_size=6), min_size=1, max_size=30))
def test_alpha_is_that_of_the_library(traces: list[list[str]]) -> None:
    counts = np.array([[labels.count(value) for value in "abcd"] for labels in traces])
    found = agreement._alpha(traces)
    if len({value for labels in traces for value in labels}) < 2:
        assert found is None
    else:
        expected = krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
        assert found == pytest.approx(float(expected), abs=1e-12)
