"""Clusters of rows that share bands."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tuneloop.datasets.selection.clusters import find_clusters


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 8)] * 3), min_size=1, max_size=25),
)
def test_clusters_are_connected_components(rows: list[tuple[int, ...]]) -> None:
    expected = list(range(len(rows)))
    for _ in rows:
        for a, left in enumerate(rows):
            for b, right in enumerate(rows):
                if any(x == y for x, y in zip(left, right, strict=True)):
                    expected[a] = expected[b] = min(expected[a], expected[b])
    assert find_clusters(np.array(rows, np.uint64)).tolist() == expected


def test_a_long_chain_is_one_cluster() -> None:
    count = 20_000
    numbers = np.random.default_rng(0).permutation(count)
    bands = np.empty((count, 2), np.uint64)
    bands[numbers, 0] = np.arange(count) // 2
    bands[numbers, 1] = (np.arange(count) + 1) // 2 + count
    assert set(find_clusters(bands).tolist()) == {0}
