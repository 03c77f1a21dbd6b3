from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneloop.training.data.packing import pack

CAPACITY = 24


def textbook_rows(lengths: list[int]) -> int:
    """Count the rows of best fit decreasing, one example at a time."""
    rooms: list[int] = []
    rows = 0
    for length in sorted(lengths, reverse=True):
        at = bisect_left(rooms, length)
        rows += at == len(rooms)
        room = rooms.pop(at) if at < len(rooms) else CAPACITY
        insort(rooms, room - length)
    return rows


@given(lengths=st.lists(st.integers(1, CAPACITY), min_size=1, max_size=60))
def test_every_example_is_in_one_row_that_holds_it(lengths: list[int]) -> None:
    packed = pack(np.array(lengths, np.int32), CAPACITY)
    assert sorted(packed.members.tolist()) == list(range(len(lengths)))
    rows = np.split(packed.members, packed.starts[1:-1])
    assert all(0 < sum(lengths[each] for each in row) <= CAPACITY for row in rows)
    assert len(rows) == len(packed.starts) - 1 == textbook_rows(lengths)


def test_the_rows_are_pinned() -> None:
    packed = pack(np.array([5, 20, 4, 24, 15, 4, 5], np.int32), CAPACITY)
    rows = np.split(packed.members, packed.starts[1:-1])
    assert [row.tolist() for row in rows] == [[3], [1, 5], [0, 2, 4], [6]]


@pytest.mark.parametrize(("capacity", "share"), [(1024, 0.003), (2048, 0.002)])
def test_little_of_the_rows_of_a_usual_set_is_padding(capacity: int, share: float) -> None:
    draw = np.random.default_rng(0)
    lengths = np.exp(draw.normal(np.log(320), 0.7, 50_000)).astype(np.int32)
    lengths = lengths[lengths <= capacity]
    packed = pack(lengths, capacity)
    assert 1 - lengths.sum() / (capacity * (len(packed.starts) - 1)) < share
