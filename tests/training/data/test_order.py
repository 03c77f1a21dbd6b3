from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.training.data.order import permute, rows_at

SEEDS = st.integers(0, 2**32 - 1)


@given(rows=st.integers(1, 300), seed=SEEDS, batch_size=st.integers(1, 70))
def test_every_epoch_holds_every_row_once(rows: int, seed: int, batch_size: int) -> None:
    steps = -(-2 * rows // batch_size)
    batches = [
        rows_at(np.arange(step * batch_size, (step + 1) * batch_size), rows, seed=seed)
        for step in range(steps)
    ]
    order = np.concatenate(batches)
    for epoch in range(2):
        part = order[epoch * rows : (epoch + 1) * rows]
        np.testing.assert_array_equal(np.sort(part), np.arange(rows))


@given(rows=st.integers(1, 2**40), seed=SEEDS, step=st.integers(0, 2**20), size=st.integers(1, 16))
def test_any_step_of_any_size_is_read_without_the_ones_before(
    rows: int, seed: int, step: int, size: int
) -> None:
    found = rows_at(np.arange(step * size, (step + 1) * size), rows, seed=seed)
    assert ((found >= 0) & (found < rows)).all()
    alone = [int(rows_at(np.array([step * size + n]), rows, seed=seed)[0]) for n in range(size)]
    assert alone == found.tolist()


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = [rows_at(np.arange(20) + 20 * e, 20, seed=s) for s in (1, 2, 11) for e in (1, 2)]
    assert len({order.tobytes() for order in orders}) == 6


def test_the_order_is_pinned() -> None:
    """A change of the order would change every training that is resumed or continued."""
    assert rows_at(np.arange(12), 10, seed=7).tolist() == [0, 5, 8, 7, 4, 1, 2, 6, 3, 9, 6, 1]


def test_all_orders_of_four_rows_are_about_equally_frequent() -> None:
    drawn = 2400
    found = Counter(permute(np.arange(4), 4, key=f"{n}/0").tobytes() for n in range(drawn))
    assert len(found) == 24
    assert sum((count - 100) ** 2 / 100 for count in found.values()) < 60


def test_a_large_order_has_no_trend() -> None:
    rows = 100_003
    order = permute(np.arange(rows), rows, key="0/0")
    assert abs(np.corrcoef(order, np.arange(rows))[0, 1]) < 0.01
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.01
