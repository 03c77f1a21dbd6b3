"""The token table of a set of examples, and the batches over it.

Training batch i is a function of the examples, the seed and i alone, so a resumed run continues at
any step without reading earlier batches. Which places of a row hold tokens is carried by segment
ids. It is never derived from the pad id, because any id may pad a row: id 0 is "!" in some
tokenizers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tuneloop.errors import DataError
from tuneloop.specs.training import TrainSpec
from tuneloop.training.schema import TrainingExample

EncodeExample = Callable[[TrainingExample], tuple[list[int], list[int]]]
"""Encodes an example as (prompt ids, response ids); the loss covers the response ids."""

LENGTH_MULTIPLE = 8
"""Rows are padded to a multiple of this, so that few different shapes are compiled."""


@dataclass
class LengthReport:
    """Length statistics of the examples."""

    examples: int = 0
    """Examples read."""
    tokens: int = 0
    """Tokens of all rows."""
    trained_tokens: int = 0
    """Tokens that the loss covers."""
    longest_tokens: int = 0
    """Tokens of the longest row."""
    longest_response_tokens: int = 0
    """Tokens of the longest response, closing turn mark included."""


@dataclass(frozen=True)
class TokenTable:
    """All rows of a training set, of different lengths, in contiguous arrays."""

    ids: np.ndarray
    """int32 (tokens,): the token ids of all rows, concatenated."""
    starts: np.ndarray
    """int64 (rows + 1,): row r is ids[starts[r]:starts[r + 1]]."""
    prompt_lengths: np.ndarray
    """int32 (rows,): the number of ids at the start of each row that the loss does not cover."""
    example_ids: tuple[str, ...]
    """Example id of each row; the order of an epoch depends on these ids."""
    pad_id: int
    """Id that fills the rest of a padded row; any id of the tokenizer, since nothing reads it."""
    _orders: dict[tuple[int, int], list[int]] = field(default_factory=dict, repr=False)
    """Cached row orders by (seed, epoch)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.prompt_lengths)

    @property
    def longest(self) -> int:
        """Count the tokens of the longest row."""
        return int(np.diff(self.starts).max())

    def rows_at(self, step: int, *, seed: int, batch_size: int) -> list[int]:
        """Return the rows of batch `step`; each epoch contains every row once."""
        places = range(step * batch_size, (step + 1) * batch_size)
        return [self._order(seed, at // len(self))[at % len(self)] for at in places]

    def _order(self, seed: int, epoch: int) -> list[int]:
        if (seed, epoch) not in self._orders:
            # Keep two orders: a batch can span two epochs, and rarely spans more.
            if len(self._orders) > 1:
                self._orders.clear()
            self._orders[seed, epoch] = epoch_order(self.example_ids, seed=seed, epoch=epoch)
        return self._orders[seed, epoch]


def build_token_table(
    examples: Iterable[tuple[str, TrainingExample]],
    encode: EncodeExample,
    *,
    pad_id: int,
    max_length_tokens: int,
) -> tuple[TokenTable, LengthReport]:
    """Encode every example.

    Args:
        examples: (place, example) pairs; the place is the location for error messages.
        encode: encodes one example, system instruction and control tokens included.
        pad_id: id that will fill the rest of padded rows.
        max_length_tokens: length limit of a row, `<bos>` and turn marks included.

    Raises:
        DataError: a row is over the limit, or there is no row. The export drops or shortens long
            examples, where a response can still be cut between its steps.
    """
    rows: list[np.ndarray] = []
    prompt_lengths: list[int] = []
    example_ids: list[str] = []
    report = LengthReport()
    for place, example in examples:
        prompt, response = encode(example)
        length = len(prompt) + len(response)
        report.examples += 1
        report.longest_tokens = max(report.longest_tokens, length)
        if length > max_length_tokens:
            raise DataError(
                f"{place}: example {example.id} has {length} tokens, expected at most"
                f" {max_length_tokens}; raise train.max_length_tokens, or set export.over_length to"
                " drop or truncate_steps with export.max_length_characters or"
                " export.max_length_tokens"
            )
        report.longest_response_tokens = max(report.longest_response_tokens, len(response))
        rows.append(np.array(prompt + response, dtype=np.int32))
        prompt_lengths.append(len(prompt))
        example_ids.append(example.id)
        report.tokens += len(prompt) + len(response)
        report.trained_tokens += len(response)
    if not rows:
        raise DataError(
            "training examples: found none, expected at least one; export a dataset with examples"
        )
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    lengths = np.array(prompt_lengths, dtype=np.int32)
    table = TokenTable(np.concatenate(rows), starts, lengths, tuple(example_ids), pad_id)
    return table, report


@dataclass(frozen=True)
class Batch:
    """Rows of equal length, padded on the right."""

    tokens: np.ndarray
    """int32 (batch, length); `pad_id` where the segment id is 0."""
    segment_ids: np.ndarray
    """int32 (batch, length): 0 for padding; tokens of one example share a number from 1."""
    loss_mask: np.ndarray
    """bool (batch, length): true where the token is a target of the loss."""
    example_ids: tuple[str, ...]
    """Ids of the examples, in the order of the rows."""

    @property
    def token_count(self) -> int:
        """Count the tokens that are not padding."""
        return int(np.count_nonzero(self.segment_ids))

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


def total_steps(spec: TrainSpec, examples: int) -> int:
    """Return the number of optimizer updates of a training on this many examples."""
    if spec.steps is not None:
        return spec.steps
    # A fraction, because 0.1 as a float is a little more than a tenth.
    return math.ceil(Fraction(repr(spec.epochs)) * examples / spec.batch_size)


def padded_length(table: TokenTable, max_length_tokens: int) -> int:
    """Return the length of padded rows: that of the longest row, rounded up to a multiple of 8.

    Args:
        table: the examples.
        max_length_tokens: length limit of a row; the result is never above it.
    """
    return min(max_length_tokens, -(-table.longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)


def batch_at(table: TokenTable, *, step: int, seed: int, batch_size: int, length: int) -> Batch:
    """Build training batch number `step`, counted from 0.

    Every epoch contains each row once, in an order of its own. A batch may contain the end of one
    epoch and the beginning of the next.
    """
    return _build_batch(table, table.rows_at(step, seed=seed, batch_size=batch_size), length)


def sequential_batches(
    table: TokenTable, *, rows: Sequence[int], batch_size: int, length: int
) -> Iterator[Batch]:
    """Yield rows of a table in the given order, in batches of one shape.

    Args:
        table: the examples.
        rows: numbers of the rows.
        batch_size: rows of a batch. The last batch is filled up with rows of padding, which hold
            no targets.
        length: length of padded rows.
    """
    for start in range(0, len(rows), batch_size):
        yield _build_batch(table, rows[start : start + batch_size], length, batch_size)


def _build_batch(
    table: TokenTable, rows: Sequence[int], length: int, batch_size: int | None = None
) -> Batch:
    shape = (batch_size or len(rows), length)
    tokens = np.full(shape, table.pad_id, dtype=np.int32)
    segment_ids = np.zeros(shape, dtype=np.int32)
    loss_mask = np.zeros(shape, dtype=bool)
    for at, row in enumerate(rows):
        ids = table.ids[table.starts[row] : table.starts[row + 1]]
        tokens[at, : len(ids)] = ids
        segment_ids[at, : len(ids)] = 1
        loss_mask[at, table.prompt_lengths[row] : len(ids)] = True
    return Batch(tokens, segment_ids, loss_mask, tuple(table.example_ids[row] for row in rows))


def epoch_order(ids: Sequence[str], *, seed: int, epoch: int) -> list[int]:
    """Return the order of examples in an epoch.

    Adding or removing an example does not change the relative order of the others.

    Args:
        ids: example ids; equal ids keep their relative order.
        seed: seed of the run.
        epoch: number of the epoch, from 0; every epoch has an order of its own.

    Returns:
        Positions in `ids`, in reading order.
    """
    key = f"{seed}/{epoch}".encode()

    def rank(position: int) -> tuple[bytes, int]:
        identity = ids[position].encode()
        return hashlib.blake2b(identity, digest_size=16, key=key).digest(), position

    return sorted(range(len(ids)), key=rank)
