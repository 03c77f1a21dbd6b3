"""Arrange prompts of different lengths in batches of few shapes, because every shape is compiled.

Nothing here depends on who generates a batch, so processes can share the batches of one plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

SHORTEST = 16
"""Smallest prompt length that is compiled for, in tokens."""
BATCHES_PER_SHAPE = 3
"""A shape that fewer batches than this would use is not compiled; they use the next longer one. To
compile a small model takes as long as a few of its batches."""
ROW_MULTIPLE = 8
"""The rows of a batch are rounded up to a multiple of this, so that similar sets share a shape."""
PREFIX_MULTIPLE = 8
"""The length of a shared prefix is rounded down to a multiple of this."""
SHORTEST_PREFIX = 16
"""Shared tokens that are worth a compilation of their own."""

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Batch:
    """Prompts that are generated together."""

    indexes: tuple[int, ...]
    """Numbers of the prompts; at most `BatchPlan.rows`."""
    padded_tokens: int
    """Tokens of every row after padding, without the shared prefix."""


@dataclass(frozen=True)
class BatchPlan:
    """The batches of all prompts."""

    rows: int
    """Rows of every batch, prompts and padding."""
    prefix_tokens: int
    """Tokens at the start of every prompt that are computed once; 0 for none."""
    batches: tuple[Batch, ...]
    """Batches in the order in which they are generated. Every prompt is in one of them, unless the
    plan was made by `plan_part`."""
    whole_tokens: int = 0
    """Tokens of the longest padded prompt of the plan that this one is a part of."""

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest padded prompt, prefix included."""
        own = self.prefix_tokens + max(batch.padded_tokens for batch in self.batches)
        return max(own, self.whole_tokens)


def plan_batches(prompts: Sequence[TokenIds], batch_size: int, *, share_prefix: bool) -> BatchPlan:
    """Sort prompts by length, cut them into batches, and choose a padded length for each.

    Args:
        prompts: token ids of at least one prompt; no prompt is empty.
        batch_size: rows of a batch at most. The prompts are divided evenly, so that few rows are
            padding.
        share_prefix: whether tokens that all prompts start with are computed only once.
    """
    prefix = _shared_prefix(prompts) if share_prefix else 0
    rows = _rows(len(prompts), batch_size)
    longest_first = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    chunks = [tuple(sorted(longest_first[at : at + rows])) for at in range(0, len(prompts), rows)]
    needed = [max(len(prompts[i]) for i in chunk) - prefix for chunk in chunks]
    lengths = _few_lengths([_rounded_up(length) for length in needed])
    return BatchPlan(
        rows, prefix, tuple(Batch(*each) for each in zip(chunks, lengths, strict=True))
    )


def plan_part(
    whole: BatchPlan, prompts: Sequence[TokenIds], chosen: Sequence[int], rows: int
) -> BatchPlan:
    """Arrange some of the prompts of a plan in batches with the lengths of that plan.

    Parts with the same number of rows share their compiled programs.

    Args:
        whole: plan of all prompts.
        prompts: token ids of all prompts.
        chosen: numbers of the prompts in the new batches; at least one.
        rows: rows of every batch.
    """
    lengths = sorted({batch.padded_tokens for batch in whole.batches})
    longest_first = sorted(chosen, key=lambda i: (-len(prompts[i]), i))
    batches = []
    for at in range(0, len(longest_first), rows):
        chunk = longest_first[at : at + rows]
        needed = len(prompts[chunk[0]]) - whole.prefix_tokens
        padded = next(length for length in lengths if length >= needed)
        batches.append(Batch(tuple(sorted(chunk)), padded))
    return BatchPlan(rows, whole.prefix_tokens, tuple(batches), whole.longest_tokens)


def rows_of_part(whole: BatchPlan, prompts: int) -> int:
    """Return the rows for parts of a plan, of which the smallest has a number of prompts."""
    return min(whole.rows, _rows(prompts, whole.rows))


def pad_left(
    prompts: Sequence[TokenIds], padded_tokens: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Align prompts at the right end of an array.

    Padding is id 0, which may be a word of the model's vocabulary: masks must come from the
    returned lengths. Rows without a prompt repeat the first prompt.

    Returns:
        tokens: int32 (rows, padded_tokens).
        lengths: int32 (rows,), the tokens of each row that are not padding.
    """
    tokens = np.zeros((rows, padded_tokens), np.int32)
    lengths = np.zeros((rows,), np.int32)
    for row in range(rows):
        ids = prompts[row if row < len(prompts) else 0]
        tokens[row, padded_tokens - len(ids) :] = ids
        lengths[row] = len(ids)
    return tokens, lengths


def _rows(prompts: int, batch_size: int) -> int:
    """Return the rows of a batch: as few as the same number of batches needs, rounded up."""
    batches = -(-prompts // batch_size)
    needed = -(-prompts // batches)
    return min(batch_size, -(-needed // ROW_MULTIPLE) * ROW_MULTIPLE)


def _shared_prefix(prompts: Sequence[TokenIds]) -> int:
    """Count the tokens that all prompts start with; every prompt keeps at least one token."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    common = sum(1 for _ in columns)
    common = min(common, min(map(len, prompts)) - 1)
    length = common // PREFIX_MULTIPLE * PREFIX_MULTIPLE
    return length if len(prompts) > 1 and length >= SHORTEST_PREFIX else 0


def _rounded_up(length: int) -> int:
    """Round a length up to 16, 24, 32, 48, 64, 96 and so on, to at most 1.5 times its size."""
    size = SHORTEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def _few_lengths(lengths: Sequence[int]) -> list[int]:
    """Replace lengths that few batches have by the next longer length that is used."""
    counts = Counter(lengths)
    longer = sorted(counts)
    becomes: dict[int, int] = {}
    for length in longer[:-1]:
        if counts[length] < BATCHES_PER_SHAPE:
            following = longer[longer.index(length) + 1]
            becomes[length] = following
            counts[following] += counts[length]
    found = []
    for length in lengths:
        while length in becomes:
            length = becomes[length]
        found.append(length)
    return found
