"""Greedy text generation with Tunix's Sampler.

All calls use the same batch size, prompt length and step count, so that all batches and both models
share one compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler

from tuneloop.errors import DataError
from tuneloop.training.chat_templates import chat_template_named
from tuneloop.training.models.model_files import StoredModel
from tuneloop.training.models.registry import family_named
from tuneloop.training.text.trainer import EOS_ID

PROMPT_MULTIPLE = 8
"""The prompt length is rounded up to a multiple of this, so that similar eval sets share a
compilation."""


@dataclass(frozen=True)
class Generation:
    """The text that a model generated for one prompt."""

    text: str
    """Generated text, without the stop token."""
    tokens: int
    """Generated tokens, without the stop token."""
    hit_limit: bool
    """Whether generation reached `max_new_tokens` before a stop token."""


class Generator:
    """A compiled sampler; `use` replaces its weights without another compilation."""

    def __init__(
        self, stored: StoredModel, prompts: Sequence[str], *, batch_size: int, max_new_tokens: int
    ) -> None:
        """Prepare a sampler whose shapes fit all prompts.

        Args:
            stored: the first model; later models must have the same shape and tokenizer.
            prompts: rendered generation prompts, without `<bos>`; the longest sets the shape.
            batch_size: rows generated at once.
            max_new_tokens: tokens generated per prompt at most.

        Raises:
            DataError: there are no prompts.
        """
        if not prompts:
            raise DataError(
                "generation: found no prompts, expected at least one; add items to the eval set"
            )
        self._prompts = tuple(prompts)
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        tokenizer = stored.tokenizer
        # Add 1 for <bos>, which the sampler prepends. If the length were too small, Tunix would
        # silently use the next power of two.
        longest = 1 + max(len(ids) for ids in tokenizer.encode(list(prompts)))
        self.prompt_length = -(-longest // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
        architecture = stored.architecture
        family = family_named(architecture.family)
        _, end_of_turn = chat_template_named(family.chat_template).turn_marks
        self._stop_ids = [EOS_ID, tokenizer.piece_to_id(end_of_turn)]
        self._sampler = Sampler(
            stored.model,
            tokenizer,
            CacheConfig(
                cache_size=self.prompt_length + max_new_tokens,
                num_layers=architecture.num_layers,
                num_kv_heads=architecture.num_kv_heads,
                head_dim=architecture.head_dim,
            ),
        )

    def use(self, stored: StoredModel) -> None:
        """Use another model's weights for the following calls of `generate`."""
        self._sampler.transformer_state = nnx.variables(stored.model)

    def generate(self, check_stop: Callable[[], None], batches: range) -> list[Generation]:
        """Generate greedily for the prompts of some batches, in order.

        Args:
            check_stop: called before each batch; may raise to stop early.
            batches: numbers of the batches, from 0. Batch i is always the same prompts, so
                processes can share the batches among them.
        """
        done: list[Generation] = []
        for batch in batches:
            check_stop()
            start = batch * self._batch_size
            chunk = self._prompts[start : start + self._batch_size]
            # The last batch is padded with its first prompt, because another batch size would
            # cause a recompilation.
            filled = [*chunk, *([chunk[0]] * (self._batch_size - len(chunk)))]
            output = self._sampler(
                filled,
                max_generation_steps=self._max_new_tokens,
                max_prompt_length=self.prompt_length,
                eos_tokens=self._stop_ids,
            )
            done += [
                self._generation(text, ids)
                for text, ids in zip(output.text, output.tokens, strict=True)
            ][: len(chunk)]
        return done

    def _generation(self, text: str, ids: np.ndarray) -> Generation:
        # Text cut at the limit can end within a character; SentencePiece then writes U+FFFD.
        return Generation(text, len(ids), hit_limit=len(ids) >= self._max_new_tokens)
