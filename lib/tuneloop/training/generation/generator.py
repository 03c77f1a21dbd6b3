"""Generate answers to prompts with one model after the other, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneloop.errors import DataError
from tuneloop.specs.architecture import Architecture
from tuneloop.training.generation.batches import BatchPlan, TokenIds, pad_left, plan_batches
from tuneloop.training.generation.decoding import (
    GREEDY,
    Cache,
    Decoder,
    Sampling,
    can_share_prefix,
)


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
            batch_size: rows generated at once. A batch with fewer prompts is filled up, because
                another number of rows would be compiled again.
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

    def use(self, model: Any) -> None:
        """Use another model's weights for the following calls of `generate`."""
        self._decoder.use(model)

    def plan(self, prompts: Sequence[TokenIds]) -> BatchPlan:
        """Arrange prompts in batches; processes that share the work make the same plan.

        Args:
            prompts: token ids of all prompts.

        Raises:
            DataError: there are no prompts, or one of them is empty.
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
        # The longest prompt is rounded up to at most 1.5 times its length, or to 16.
        room = 16 + max(map(len, prompts)) * 3 // 2 + self._max_new_tokens
        may_share = can_share_prefix(self._architecture, room)
        return plan_batches(prompts, self._batch_size, share_prefix=may_share)

    def generate(
        self,
        prompts: Sequence[TokenIds],
        plan: BatchPlan,
        *,
        batches: range | None = None,
        before_batch: Callable[[int], None] = lambda number: None,
        sampling: Sampling = GREEDY,
    ) -> dict[int, NewTokens]:
        """Generate answers to the prompts of some batches.

        Args:
            prompts: token ids of all prompts, those of other batches included.
            plan: what `plan` returned for these prompts.
            batches: numbers of the batches to generate, from 0; None generates all.
            before_batch: called with its number before each batch; may raise to stop early.
            sampling: how tokens are chosen; draws depend on the seed and the prompt's number.

        Returns:
            Number of the prompt -> its answer.
        """
        prefix: Cache | None = None
        found: dict[int, NewTokens] = {}
        for number in range(len(plan.batches)) if batches is None else batches:
            before_batch(number)
            if plan.prefix_tokens and prefix is None:
                shared = np.array(prompts[0][: plan.prefix_tokens], np.int32)
                prefix = self._decoder.share_prefix(shared)
            batch = plan.batches[number]
            rest = [prompts[i][plan.prefix_tokens :] for i in batch.indexes]
            tokens, lengths = pad_left(rest, batch.padded_tokens, self._batch_size)
            numbers = np.resize(np.array(batch.indexes, np.int32), self._batch_size)
            ids, counts, stopped = self._decoder.run(
                tokens,
                lengths,
                numbers,
                cache_tokens=plan.longest_tokens + self._max_new_tokens,
                prefix=prefix,
                sampling=sampling,
            )
            for row, index in enumerate(batch.indexes):
                new = tuple(int(each) for each in ids[row, : counts[row]])
                found[index] = NewTokens(new, hit_limit=not bool(stopped[row]))
        return found
