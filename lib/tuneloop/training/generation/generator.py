"""Generate answers to prompts with one model after the other, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneloop.errors import DataError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.training.generation.batches import (
    SHORTEST,
    BatchPlan,
    TokenIds,
    pad_left,
    plan_batches,
)
from tuneloop.training.generation.decoding import (
    GREEDY,
    Cache,
    Decoder,
    Sampling,
    can_share_prefix,
)

Draw = tuple[int, int]
"""Two numbers from 0 to 2^32 - 1 that give a prompt its random numbers: one of the question, and
the number of the sample."""


@dataclass(frozen=True)
class NewTokens:
    """What a model generated for one prompt."""

    ids: tuple[int, ...]
    """Token ids, without the stop id."""
    hit_limit: bool
    """Whether generation reached the maximum number of tokens before a stop id."""


class Generator:
    """Generates batches of prompts; models of the same architecture share the compilation."""

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        *,
        stop_ids: Sequence[int],
        batch_size: int,
        max_new_tokens: int,
    ) -> None:
        """Prepare a generator; nothing is compiled before the first batch.

        Args:
            model: the first model; `use` replaces it.
            architecture: architecture of all models.
            stop_ids: ids after which an answer is complete.
            batch_size: rows generated at once at most. A batch with fewer prompts is filled up,
                because another number of rows would be compiled again.
            max_new_tokens: tokens generated per prompt at most.
        """
        self._architecture = architecture
        self._batch_size, self._max_new_tokens = batch_size, max_new_tokens
        self._decoder = Decoder(
            model,
            architecture,
            stop_ids=tuple(stop_ids),
            max_new_tokens=max_new_tokens,
        )

        self._prefix: tuple[list[int], Cache] | None = None

    def use(self, model: Any) -> None:
        """Use another model's weights for the following calls of `generate`."""
        self._prefix = None
        self._decoder.use(model)

    def release(self) -> None:
        """Drop the weights, so that the next model can be loaded into their memory."""
        self._prefix = None
        self._decoder.release()

    def plan(self, prompts: Sequence[TokenIds]) -> BatchPlan:
        """Arrange prompts in batches for `generate`; see `plan_prompts`."""
        return plan_prompts(prompts, self._architecture, self._batch_size, self._max_new_tokens)

    def generate(
        self,
        prompts: Sequence[TokenIds],
        plan: BatchPlan,
        *,
        batches: range | None = None,
        before_batch: Callable[[int], None] = lambda number: None,
        sampling: Sampling = GREEDY,
        draws: Sequence[Draw] | None = None,
    ) -> dict[int, NewTokens]:
        """Generate answers to the prompts of some batches.

        Args:
            prompts: token ids of all prompts, those of other batches included.
            plan: what `plan` returned for these prompts.
            batches: numbers of the batches to generate, from 0; None generates all.
            before_batch: called with its number before each batch; may raise to stop early.
            sampling: how tokens are chosen.
            draws: what gives each prompt its random numbers, besides the seed; None takes the
                numbers of the prompts.

        Returns:
            Number of the prompt -> its answer.
        """
        shared = list(prompts[0][: plan.prefix_tokens])
        found: dict[int, NewTokens] = {}
        for number in range(len(plan.batches)) if batches is None else batches:
            before_batch(number)
            batch = plan.batches[number]
            rest = [prompts[i][plan.prefix_tokens :] for i in batch.indexes]
            tokens, lengths = pad_left(rest, batch.padded_tokens, plan.rows)
            drawn = [(i, 0) if draws is None else draws[i] for i in batch.indexes]
            ids, counts, stopped = self._decoder.run(
                tokens,
                lengths,
                np.resize(np.array(drawn, np.uint32), (plan.rows, 2)),
                cache_tokens=plan.longest_tokens + self._max_new_tokens,
                prefix=self._cache_of(shared),
                sampling=sampling,
            )
            for row, index in enumerate(batch.indexes):
                new = tuple(int(each) for each in ids[row, : counts[row]])
                found[index] = NewTokens(new, hit_limit=not bool(stopped[row]))
        return found

    def _cache_of(self, prefix: list[int]) -> Cache | None:
        """Return the keys and values of a prefix, which the last one's batches have computed."""
        if not prefix:
            return None
        if self._prefix is None or self._prefix[0] != prefix:
            self._prefix = prefix, self._decoder.share_prefix(np.array(prefix, np.int32))
        return self._prefix[1]


def plan_prompts(
    prompts: Sequence[TokenIds], architecture: Architecture, batch_size: int, max_new_tokens: int
) -> BatchPlan:
    """Arrange prompts in batches; processes that share the work make the same plan.

    Args:
        prompts: token ids of all prompts.
        architecture: architecture of the model.
        batch_size: rows of a batch at most.
        max_new_tokens: tokens generated per prompt at most.

    Raises:
        DataError: there are no prompts, one of them is empty, or one is too long for the model.
    """
    if not prompts:
        raise DataError(
            "generation: found no prompts, expected at least one; add items to the eval set"
        )
    for number, ids in enumerate(prompts):
        if not ids:
            raise DataError(
                f"generation: prompt {number} has no tokens, expected at least one; use a chat"
                " template that marks the start of the answer"
            )
        if len(ids) + max_new_tokens > architecture.max_positions:
            raise DataError(
                f"generation: prompt {number} has {len(ids)} tokens and the answer up to"
                f" {max_new_tokens}, expected at most {architecture.max_positions} together as the"
                " model was trained for; shorten the prompt or lower the maximum of new tokens"
            )
    # The longest prompt is rounded up to at most 1.5 times its length, or to SHORTEST.
    room = SHORTEST + max(map(len, prompts)) * 3 // 2 + max_new_tokens
    return plan_batches(prompts, batch_size, share_prefix=can_share_prefix(architecture, room))
