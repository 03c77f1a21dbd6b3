from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.data.tables import table_of
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.data.batches import Batch, Rows, padded_lengths
from tuneloop.training.data.table import TokenTable


def rows_of(table: TokenTable, batch_size: int, chosen: Any = None, **options: Any) -> Rows:
    spec = TrainSpec(
        steps=1, batch_size=batch_size, **{"max_length_tokens": 64, "packing": False, **options}
    )
    return Rows(table, spec, batch_size=batch_size, chosen=chosen)


def same(one: Batch, other: Batch) -> bool:
    arrays = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return all(map(np.array_equal, *zip(*arrays, strict=True)))


def test_the_pad_id_may_be_an_id_of_the_text() -> None:
    """Id 0 is "!" in the tokenizers of Qwen 3 and Llama 3."""
    table = table_of(([0, 5, 0], [0, 7]), ([5], [0]), pad_id=0)
    (batch,) = rows_of(table, 2).in_order()
    assert batch.tokens.tolist() == [[0, 5, 0, 0, 7, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert batch.loss_mask.astype(int).tolist() == [
        [0, 0, 0, 1, 1, 0, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.token_count == 7
    assert batch.target_count == 3
    assert batch.example_lengths.tolist() == [5, 2]
    assert batch.padding_share == 9 / 16


def test_packed_examples_are_segments_of_a_row() -> None:
    table = table_of(([7, 8, 9], [1, 2]), ([5], [6]), ([], [3, 4]), pad_id=0)
    (batch,) = rows_of(table, 2, packing=True, max_length_tokens=8).in_order()
    assert batch.tokens.tolist() == [[7, 8, 9, 1, 2, 5, 6, 0], [3, 4, 0, 0, 0, 0, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1, 2, 2, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    # Without a prompt, the first token of a segment would be predicted from another segment.
    assert batch.loss_mask.astype(int).tolist() == [
        [0, 0, 0, 1, 1, 0, 1, 0],
        [0, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.example_ids == ("e0", "e1", "e2")
    assert batch.token_count == 9
    assert batch.target_count == 4
    assert batch.example_lengths.tolist() == [5, 2, 2]
    assert batch.padding_share == 7 / 16


def test_rows_are_padded_to_the_longest_one_and_never_beyond_the_limit() -> None:
    assert padded_lengths(np.array([3, 33]), 1024, 8) == (40,)
    assert padded_lengths(np.array([3, 33]), 33, 8) == (33,)


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(1, (256, 512, 1000)), (8, (512, 1000)), (1000, (1000,))]
)
def test_shorter_buckets_are_used_if_enough_batches_need_no_more(
    batch_size: int, expected: tuple[int, ...]
) -> None:
    lengths = np.array([200] * 500 + [500] * 480 + [1000] * 20)
    assert padded_lengths(lengths, 1024, batch_size) == expected


def test_a_batch_is_padded_to_the_shortest_bucket_that_holds_it() -> None:
    table = table_of(*(([1], [2] * (length - 1)) for length in [200] * 7 + [1000]))
    rows = rows_of(table, 1, max_length_tokens=1024)
    assert rows.padded_lengths == (256, 1000)
    assert [batch.tokens.shape for batch in rows.in_order()] == [(1, 256)] * 7 + [(1, 1000)]


def test_rows_in_order_fill_up_the_last_batch() -> None:
    table = table_of(*(([1], [2] * n) for n in range(1, 8)))
    batches = list(rows_of(table, 2, np.array([0, 1, 2, 4, 5])).in_order())
    assert [batch.example_ids for batch in batches] == [("e0", "e1"), ("e2", "e4"), ("e5",)]
    assert {batch.tokens.shape for batch in batches} == {(2, 8)}
    assert batches[-1].segment_ids[1].sum() == batches[-1].loss_mask[1].sum() == 0
    assert sum(batch.token_count for batch in rows_of(table, 4).in_order()) == len(table.ids)


def test_a_batch_larger_than_the_table_holds_every_row() -> None:
    batch = rows_of(table_of(([1], [2]), ([3], [4]), ([5], [6])), 7).batch_at(0, seed=0)
    assert batch.tokens.shape == (7, 8)
    assert len({row.tobytes() for row in batch.tokens}) == 3


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
    batch_size=st.integers(1, 9),
    packing=st.booleans(),
)
def test_an_epoch_reads_every_example_once_and_resumes_at_any_step(
    lengths: list[int], seed: int, batch_size: int, packing: bool
) -> None:
    table = table_of(*(([1], [2] * length) for length in lengths))
    rows = rows_of(table, batch_size, packing=packing, max_length_tokens=31)
    whole = len(rows) * batch_size  # places after which epochs and batches end together
    batches = [rows.batch_at(step, seed=seed) for step in range(whole // batch_size)]
    read = [each for batch in batches for each in batch.example_ids]
    assert sorted(read) == sorted(f"e{n}" for n in range(len(lengths)) for _ in range(batch_size))
    assert sum(batch.token_count for batch in batches) == len(table.ids) * batch_size
    # Another process, which has read none of the batches before.
    again = rows_of(table, batch_size, packing=packing, max_length_tokens=31)
    assert same(again.batch_at(len(batches) - 1, seed=seed), batches[-1])
