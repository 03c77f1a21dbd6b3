"""The token table of a training set, and the batch stream over it."""

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
from tuneloop.training.text.tokenizers import PAD_ID

OverLength = Literal["fail", "drop", "truncate"]


@dataclass
class LengthReport:
    """How long the examples are, and what became of those that are too long."""

    examples: int = 0
    """Examples read."""
    tokens: int = 0
    """Tokens kept."""
    trained_tokens: int = 0
    """Tokens kept that the loss covers."""
    longest_tokens: int = 0
    """The longest row, before any cut."""
    longest_response_tokens: int = 0
    """The longest response as it is trained on, `<end_of_turn>` included."""
    dropped_ids: list[str] = field(default_factory=list)
    """Examples left out as too long."""
    truncated_ids: list[str] = field(default_factory=list)
    """Examples whose tail was cut off: they do not teach the model to stop."""


@dataclass(frozen=True)
class TokenTable:
    """All rows of a training set, ragged, in one piece of memory."""

    ids: np.ndarray
    """int32 (tokens,): the rows one after the other."""
    starts: np.ndarray
    """int64 (rows + 1,): row r is ids[starts[r]:starts[r + 1]]."""
    prompt_lengths: np.ndarray
    """int32 (rows,): how many ids at a row's front stay outside the loss."""
    example_ids: tuple[str, ...]
    """Names the rows: an epoch's order depends on them."""
    _orders: dict[tuple[int, int], list[int]] = field(default_factory=dict, repr=False)
    """The orders of the last epochs asked for."""

    def __len__(self) -> int:
        """Rows."""
        return len(self.prompt_lengths)

    def rows_at(self, step: int, *, seed: int, batch_size: int) -> list[int]:
        """Which rows make batch `step`: epoch after epoch, each row once in an epoch."""
        places = range(step * batch_size, (step + 1) * batch_size)
        return [self._order(seed, at // len(self))[at % len(self)] for at in places]

    def _order(self, seed: int, epoch: int) -> list[int]:
        if (seed, epoch) not in self._orders:
            if len(self._orders) > 1:  # a batch reaches over two epochs, hardly ever over more
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
        examples: (place, example) pairs; the place is what an error names.
        tokenizer: from `load_tokenizer`.
        system_instruction: put into every user turn.
        max_length_tokens: the longest row, `<bos>` and `<end_of_turn>` included.
        over_length: what happens to a longer one; `truncate` cuts the tail, and drops a row whose
            prompt alone is too long, since nothing would be left to learn.
        template: how the model writes turns.

    Raises:
        DataError: a row is too long under `fail`, or no row is left.
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
            " build a dataset with examples"
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
    """One optimizer update's rows, right-padded."""

    tokens: np.ndarray
    """int32 (batch, length), 0 = padding."""
    loss_mask: np.ndarray
    """bool (batch, length): true where the token is a target of the loss."""

    @property
    def token_count(self) -> int:
        """Tokens that are not padding."""
        return int((self.tokens != PAD_ID).sum())


def batch_at(table: TokenTable, *, step: int, seed: int, batch_size: int, length: int) -> Batch:
    """Make batch `step` (from 0); depends on nothing but the arguments.

    Every epoch reads each row once, in an order of its own; the batch in which one ends goes on
    with the next.
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
    """In which order to read examples in an epoch, as positions in `ids`.

    Args:
        ids: the examples' ids; of two equal ones, the first comes first.
        seed: the run's.
        epoch: from 0; every epoch has an order of its own.
    """
    key = f"{seed}/{epoch}".encode()

    def rank(position: int) -> tuple[bytes, int]:
        identity = ids[position].encode()
        return hashlib.blake2b(identity, digest_size=16, key=key).digest(), position

    return sorted(range(len(ids)), key=rank)
