"""The token table of a training set, and the batch stream over it.

Batch i is a function of the examples, the seed and i alone, so a resumed run continues at any step
without reading earlier batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import sentencepiece

from tuneloop.errors import DataError
from tuneloop.training.chat_templates import DEFAULT_CHAT_TEMPLATE, ChatTemplate
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.encode import encode_generation_prompt, encode_response
from tuneloop.training.text.trainer import PAD_ID

OverLength = Literal["fail", "drop", "truncate"]


@dataclass
class LengthReport:
    """Length statistics of the examples, and the examples that exceeded the length limit."""

    examples: int = 0
    """Examples read."""
    tokens: int = 0
    """Tokens kept."""
    trained_tokens: int = 0
    """Kept tokens that the loss covers."""
    longest_tokens: int = 0
    """Tokens of the longest row, before truncation."""
    longest_response_tokens: int = 0
    """Tokens of the longest response after truncation, closing turn mark included."""
    dropped_ids: list[str] = field(default_factory=list)
    """Ids of examples that were dropped as too long."""
    truncated_ids: list[str] = field(default_factory=list)
    """Ids of truncated examples. They lack the closing turn mark, so they do not teach the model to
    stop."""


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
    _orders: dict[tuple[int, int], list[int]] = field(default_factory=dict, repr=False)
    """Cached row orders by (seed, epoch)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.prompt_lengths)

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
    tokenizer: sentencepiece.SentencePieceProcessor,
    *,
    system_instruction: str | None,
    max_length_tokens: int,
    over_length: OverLength,
    template: ChatTemplate = DEFAULT_CHAT_TEMPLATE,
) -> tuple[TokenTable, LengthReport]:
    """Encode every example.

    Args:
        examples: (place, example) pairs; the place is the location for error messages.
        tokenizer: a tokenizer from `load_tokenizer`.
        system_instruction: text added to every example; None for no text.
        max_length_tokens: length limit of a row, `<bos>` and turn marks included.
        over_length: treatment of rows over the limit. `fail` raises an error, `drop` drops the
            row, `truncate` cuts the end of the response. `truncate` drops a row if its prompt
            alone reaches the limit, since no response would remain.
        template: chat template of the model family.

    Raises:
        DataError: a row is over the limit and `over_length` is `fail`, or no row remains.
    """
    rows: list[np.ndarray] = []
    prompt_lengths: list[int] = []
    example_ids: list[str] = []
    report = LengthReport()
    for place, example in examples:
        prompt = encode_generation_prompt(tokenizer, example.prompt, system_instruction, template)
        response = encode_response(tokenizer, example.response, template)
        length = len(prompt) + len(response)
        report.examples += 1
        report.longest_tokens = max(report.longest_tokens, length)
        if length > max_length_tokens:
            _refuse_if_fail(place, example, length, max_length_tokens, over_length)
            if over_length == "drop" or len(prompt) >= max_length_tokens:
                report.dropped_ids.append(example.id)
                continue
            report.truncated_ids.append(example.id)
            response = response[: max_length_tokens - len(prompt)]
        report.longest_response_tokens = max(report.longest_response_tokens, len(response))
        rows.append(np.array(prompt + response, dtype=np.int32))
        prompt_lengths.append(len(prompt))
        example_ids.append(example.id)
        report.tokens += len(prompt) + len(response)
        report.trained_tokens += len(response)
    if not rows:
        raise DataError(
            f"training examples: {report.examples} read, {len(report.dropped_ids)} dropped as"
            f" longer than {max_length_tokens} tokens, none left; raise train.max_length_tokens or"
            " export a dataset with examples"
        )
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    lengths = np.array(prompt_lengths, dtype=np.int32)
    return TokenTable(np.concatenate(rows), starts, lengths, tuple(example_ids)), report


def _refuse_if_fail(
    place: str, example: TrainingExample, length: int, limit: int, over_length: OverLength
) -> None:
    if over_length == "fail":
        raise DataError(
            f"{place}: example {example.id} has {length} tokens, expected at most {limit}; raise"
            " train.max_length_tokens, or set train.over_length to drop or truncate"
        )


@dataclass(frozen=True)
class Batch:
    """The rows of one optimizer update, padded on the right."""

    tokens: np.ndarray
    """int32 (batch, length), 0 = padding."""
    loss_mask: np.ndarray
    """bool (batch, length): true where the token is a target of the loss."""

    @property
    def token_count(self) -> int:
        """Count the tokens that are not padding."""
        return int((self.tokens != PAD_ID).sum())


def batch_at(table: TokenTable, *, step: int, seed: int, batch_size: int, length: int) -> Batch:
    """Build batch number `step`, counted from 0.

    Every epoch contains each row once, in an order of its own. A batch may contain the end of one
    epoch and the beginning of the next.
    """
    rows = table.rows_at(step, seed=seed, batch_size=batch_size)
    tokens = np.full((batch_size, length), PAD_ID, dtype=np.int32)
    loss_mask = np.zeros((batch_size, length), dtype=bool)
    for at, row in enumerate(rows):
        ids = table.ids[table.starts[row] : table.starts[row + 1]]
        tokens[at, : len(ids)] = ids
        loss_mask[at, table.prompt_lengths[row] : len(ids)] = True
    return Batch(tokens, loss_mask)


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
