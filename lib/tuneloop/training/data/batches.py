"""Rows and batches: which examples a batch holds, and its arrays.

Training batch i is a function of the examples, the options, the seed and i alone, so a resumed run
continues at any step without reading earlier batches. Which places of a row hold tokens is carried
by segment ids. It is never derived from the pad id, because any id may pad a row: id 0 is "!" in
some tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.data.order import rows_at
from tuneloop.training.data.packing import pack
from tuneloop.training.data.table import TokenTable

LENGTH_MULTIPLE = 8
"""Rows are padded to a multiple of this, unless the limit is lower."""
BUCKETS = 4
"""Maximum number of lengths that rows are padded to; each of them is compiled once."""
BUCKET_MULTIPLE = 64
"""Bucket lengths below the longest are multiples of this; shorter rows are not worth a bucket."""
BUCKET_SHARE = 0.1
"""Share of the batches that a bucket must hold to be worth the time of its compilation."""


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right."""

    tokens: np.ndarray
    """int32 (batch, length); `pad_id` where the segment id is 0."""
    segment_ids: np.ndarray
    """int32 (batch, length): 0 for padding; tokens of one example share a
    number, which counts the examples of a row from 1."""
    loss_mask: np.ndarray
    """bool (batch, length): true where the token is a target of the loss."""
    example_ids: tuple[str, ...]
    """Ids of the examples, row by row."""

    @property
    def token_count(self) -> int:
        """Count the tokens that are not padding."""
        return int(np.count_nonzero(self.segment_ids))

    @property
    def target_count(self) -> int:
        """Count the tokens that are targets of the loss; a first token has none before it."""
        return int(np.count_nonzero(self.loss_mask[:, 1:]))

    @property
    def example_lengths(self) -> np.ndarray:
        """Return the tokens of each example, int64 (examples,), row by row."""
        rows, most = len(self.segment_ids), int(self.segment_ids.max())
        numbered = self.segment_ids + np.arange(rows)[:, None] * (most + 1)
        counts = np.bincount(numbered.ravel(), minlength=rows * (most + 1))
        by_row = counts.reshape(rows, most + 1)[:, 1:]  # 0 is padding
        return by_row[by_row > 0]

    @property
    def padding_share(self) -> float:
        """Return the share of the batch that is padding, 0 to 1."""
        return 1 - self.token_count / self.segment_ids.size

    def arrays(self, parts: int | None = None) -> dict[str, np.ndarray]:
        """Return the arrays that `loss.model_inputs` reads, by name.

        Args:
            parts: number of parts that the rows are split into; the arrays then have the shape
                (parts, rows of a part, length). None keeps (rows, length).
        """
        arrays = {
            "tokens": self.tokens,
            "segment_ids": self.segment_ids,
            "loss_mask": self.loss_mask,
        }
        if parts is None:
            return arrays
        shape = (parts, -1, self.tokens.shape[1])
        return {name: array.reshape(shape) for name, array in arrays.items()}


def total_steps(spec: TrainSpec, rows: int) -> int:
    """Return the number of optimizer updates of a training on this many rows."""
    if spec.steps is not None:
        return spec.steps
    # A fraction, because 0.1 as a float is a little more than a tenth.
    return math.ceil(Fraction(repr(spec.epochs)) * rows / spec.batch_size)


class Rows:
    """The rows that batches are made of: one example each, or several if they are packed."""

    def __init__(
        self,
        table: TokenTable,
        spec: TrainSpec,
        *,
        batch_size: int,
        chosen: np.ndarray | None = None,
    ) -> None:
        """Arrange the examples in rows.

        Args:
            table: the encoded examples.
            spec: whether examples are packed, and the limit of a row.
            batch_size: rows of a batch.
            chosen: numbers of the examples that are used; None uses all.
        """
        self.table, self.batch_size = table, batch_size
        self._members, self._starts = chosen, None
        lengths = table.lengths if chosen is None else table.lengths[chosen]
        if spec.packing:
            packed = pack(lengths, spec.max_length_tokens)
            members = packed.members if chosen is None else chosen[packed.members]
            self._members, self._starts = members, packed.starts
            lengths = np.add.reduceat(lengths[packed.members], packed.starts[:-1])
        self._count = len(lengths)
        self.padded_lengths = padded_lengths(lengths, spec.max_length_tokens, batch_size)
        """Lengths that rows are padded to, in rising order."""

    def __len__(self) -> int:
        """Return the number of rows, which is also that of an epoch."""
        return self._count

    def members(self, row: int) -> list[int]:
        """Return the numbers of the examples in a row."""
        if self._members is None:
            return [row]
        starts = self._starts
        start, stop = (row, row + 1) if starts is None else (starts[row], starts[row + 1])
        found: list[int] = self._members[start:stop].tolist()
        return found

    def batch_at(self, step: int, *, seed: int) -> Batch:
        """Build training batch number `step`, counted from 0.

        Every epoch contains each row once, in an order of its own. A batch may contain the end of
        one epoch and the beginning of the next.
        """
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return self._build(rows_at(places, len(self), seed=seed))

    def in_order(self) -> Iterator[Batch]:
        """Yield all rows once, in order; the last batch is filled up with rows of padding."""
        for start in range(0, len(self), self.batch_size):
            yield self._build(np.arange(start, min(start + self.batch_size, len(self))))

    def _build(self, rows: np.ndarray) -> Batch:
        table = self.table
        content = [self.members(row) for row in rows.tolist()]
        longest = max(int(table.lengths[members].sum()) for members in content)
        length = next(each for each in self.padded_lengths if each >= longest)
        shape = (self.batch_size, length)
        tokens = np.full(shape, table.pad_id, dtype=np.int32)
        segment_ids = np.zeros(shape, dtype=np.int32)
        loss_mask = np.zeros(shape, dtype=bool)
        for at, members in enumerate(content):
            start = 0
            for segment, example in enumerate(members, start=1):
                ids = table.ids[table.starts[example] : table.starts[example + 1]]
                stop = start + len(ids)
                tokens[at, start:stop] = ids
                segment_ids[at, start:stop] = segment
                # The first token of a segment is no target: the token before it is of another.
                prompt = max(1, int(table.prompt_lengths[example]))
                loss_mask[at, start + prompt : stop] = True
                if len(table.gaps):
                    for first, after in table.gaps_of(example).tolist():
                        loss_mask[at, start + first : start + after] = False
                start = stop
        ids_of_batch = tuple(table.example_ids[each] for members in content for each in members)
        return Batch(tokens, segment_ids, loss_mask, ids_of_batch)


def padded_lengths(lengths: np.ndarray, limit: int, batch_size: int) -> tuple[int, ...]:
    """Return the lengths that the rows of a batch are padded to: the shortest that holds them all.

    The last one is that of the longest row, rounded up to a multiple of 8. Others are about a
    quarter, a half and three quarters of it, if enough batches are expected to need no more.

    Args:
        lengths: tokens of each row.
        limit: length limit of a row; no result is above it.
        batch_size: rows of a batch.
    """
    longest = min(limit, _round_up(int(lengths.max()), LENGTH_MULTIPLE))
    step = _round_up(-(-longest // BUCKETS), BUCKET_MULTIPLE)
    found: list[int] = []
    below = 0.0
    for length in range(step, longest, step):
        # The longest of `batch_size` rows drawn at random is within the length.
        share = np.count_nonzero(lengths <= length) / len(lengths)
        within = float(share**batch_size)
        if within - below >= BUCKET_SHARE:
            found.append(length)
            below = within
    return (*found, longest)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
