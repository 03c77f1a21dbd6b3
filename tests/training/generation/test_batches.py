from __future__ import annotations

import random

import numpy as np
import pytest

from tuneloop.training.generation.batches import (
    BATCHES_PER_SHAPE,
    pad_left,
    plan_batches,
    plan_part,
    rows_of_part,
)


def prompts_of(*lengths: int) -> list[list[int]]:
    return [[100 + number] * length for number, length in enumerate(lengths)]


def test_every_prompt_is_in_one_batch_that_is_long_enough() -> None:
    rng = random.Random(0)
    prompts = prompts_of(*(rng.randint(1, 300) for _ in range(77)))
    plan = plan_batches(prompts, 8, share_prefix=True)
    assert sorted(i for batch in plan.batches for i in batch.indexes) == list(range(77))
    for batch in plan.batches:
        longest = max(len(prompts[i]) for i in batch.indexes)
        assert longest <= batch.padded_tokens
    assert [len(batch.indexes) for batch in plan.batches] == [8] * 9 + [5]
    shapes = [batch.padded_tokens for batch in plan.batches]
    assert shapes == sorted(shapes, reverse=True)
    assert plan.longest_tokens == max(shapes)
    assert all(shapes.count(shape) >= BATCHES_PER_SHAPE for shape in set(shapes) - {max(shapes)})


@pytest.mark.parametrize(
    ("prompts", "batch_size", "rows", "batches"),
    [
        *((75, 64, 40, 2), (300, 64, 64, 5), (160, 64, 56, 3), (10, 64, 16, 1), (64, 64, 64, 1)),
        *((1, 1, 1, 1), (5, 4, 4, 2), (10, 8, 8, 2)),
    ],
)
def test_few_rows_are_padding(prompts: int, batch_size: int, rows: int, batches: int) -> None:
    plan = plan_batches(prompts_of(*[20] * prompts), batch_size, share_prefix=False)
    assert (plan.rows, len(plan.batches)) == (rows, batches)


@pytest.mark.parametrize(
    ("length", "padded"),
    [(1, 16), (16, 16), (17, 24), (24, 24), (25, 32), (33, 48), (49, 64), (65, 96), (97, 128)],
)
def test_lengths_are_rounded_up_to_a_few_sizes(length: int, padded: int) -> None:
    plan = plan_batches(prompts_of(length), 4, share_prefix=True)
    assert [batch.padded_tokens for batch in plan.batches] == [padded]


def test_a_shape_for_few_batches_is_not_compiled() -> None:
    prompts = prompts_of(*[100] * 4, *[40] * 4, *[20] * 12)
    plan = plan_batches(prompts, 4, share_prefix=False)
    assert [batch.padded_tokens for batch in plan.batches] == [128, 128, 24, 24, 24]


def test_what_all_prompts_start_with_is_computed_once() -> None:
    prompts = [[*range(30), 50, number] for number in range(5)]
    assert plan_batches(prompts, 4, share_prefix=True).prefix_tokens == 24
    assert plan_batches(prompts, 4, share_prefix=False).prefix_tokens == 0
    # A row keeps at least one token of its own, and a single prompt shares nothing.
    assert plan_batches([[*range(24)], [*range(30)]], 4, share_prefix=True).prefix_tokens == 16
    assert plan_batches([[*range(30)]], 4, share_prefix=True).prefix_tokens == 0
    assert plan_batches([[1, 2, 3], [1, 2, 4]], 4, share_prefix=True).prefix_tokens == 0


def test_rows_end_together_and_know_their_lengths() -> None:
    tokens, lengths = pad_left([[5, 0, 6], [7]], 4, 3)
    assert tokens.tolist() == [[0, 5, 0, 6], [0, 0, 0, 7], [0, 5, 0, 6]]
    assert lengths.tolist() == [3, 1, 3]
    assert tokens.dtype == lengths.dtype == np.int32


def test_parts_of_a_plan_have_its_lengths_and_the_rows_of_the_smallest_part() -> None:
    prompts = prompts_of(*range(5, 205))
    whole = plan_batches(prompts, 64, share_prefix=False)
    rows = rows_of_part(whole, 20)
    parts = [plan_part(whole, prompts, range(at, 200, 7), rows) for at in range(7)]
    assert rows == 24 and {part.rows for part in parts} == {24}
    assert {part.longest_tokens for part in parts} == {whole.longest_tokens}
    found = [i for part in parts for batch in part.batches for i in batch.indexes]
    assert sorted(found) == list(range(200))
    lengths = {batch.padded_tokens for part in parts for batch in part.batches}
    assert lengths <= {batch.padded_tokens for batch in whole.batches}
    for part in parts:
        for batch in part.batches:
            assert max(len(prompts[i]) for i in batch.indexes) <= batch.padded_tokens
