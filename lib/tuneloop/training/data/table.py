"""The token table: the ids of all examples of a set, in memory or mapped from a token file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from tuneloop.training.data.encoding import Block


class ExampleIds(Protocol):
    """The example id of each row of a table."""

    def __len__(self) -> int:
        """Return the number of ids."""

    def __getitem__(self, number: int, /) -> str:
        """Return one id."""


@dataclass(frozen=True)
class StoredIds:
    """Example ids in one array of bytes, so that a million ids are no million objects."""

    text: np.ndarray
    """uint8 (bytes,): all ids, concatenated; see `encode_id`."""
    starts: np.ndarray
    """int64 (examples + 1,): id n is text[starts[n]:starts[n + 1]]."""

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.starts) - 1

    def __getitem__(self, number: int, /) -> str:
        """Return one id."""
        data = self.text[self.starts[number] : self.starts[number + 1]]
        return data.tobytes().decode("utf-8", "surrogatepass")


def encode_id(example_id: str) -> bytes:
    """Encode an id as UTF-8; a lone surrogate, which is not valid in UTF-8, is kept too."""
    return example_id.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class TokenTable:
    """The encoded examples of a set."""

    ids: np.ndarray
    """int32 (tokens,): the token ids of all examples, concatenated."""
    starts: np.ndarray
    """int64 (examples + 1,): example n is ids[starts[n]:starts[n + 1]]."""
    prompt_lengths: np.ndarray
    """int32 (examples,): the number of ids at the start of each that the loss does not cover."""
    example_ids: ExampleIds
    """Id of each example."""
    pad_id: int
    """Id that fills the rest of a padded row; any id of the tokenizer, since nothing reads it."""
    gaps: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    """int64 (gaps, 3): ids after the start of an example that the loss does not cover, as (number
    of the example, first position in it, position after the last one), in order."""

    def gaps_of(self, example: int) -> np.ndarray:
        """Return the gaps of one example, (gaps, 2): first position, and the one after the last."""
        first, stop = np.searchsorted(self.gaps[:, 0], [example, example + 1])
        return self.gaps[first:stop, 1:]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.prompt_lengths)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 (examples,): the number of tokens of each example."""
        return np.diff(self.starts).astype(np.int32)


def join_blocks(blocks: Iterable[Block], *, pad_id: int) -> TokenTable:
    """Join encoded examples to a table in memory; for few examples.

    Args:
        blocks: the encoded examples, at least one block.
        pad_id: id that fills the rest of a padded row.
    """
    every = list(blocks)
    first = np.cumsum([0, *(len(block.lengths) for block in every)])
    lengths = np.concatenate([block.lengths for block in every])
    return TokenTable(
        np.concatenate([block.ids for block in every]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate([block.prompt_lengths for block in every]),
        tuple(each for block in every for each in block.example_ids),
        pad_id,
        np.concatenate(
            [
                block.gaps + np.array([start, 0, 0])
                for block, start in zip(every, first[:-1], strict=True)
            ]
        ),
    )
