"""Greedy generation with Tunix's Sampler in constant shapes.

Every call has the same batch size, prompt length and step count, so that all batches and both
models share one compilation.
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
from tuneloop.training.text.tokenizers import EOS_ID

PROMPT_MULTIPLE = 8
"""Prompt lengths are rounded up to this, so that similar sets share a compilation."""


@dataclass(frozen=True)
class Generation:
    """What a model said to one prompt."""

    text: str
    """Without the stop token."""
    tokens: int
    """Generated, the stop token apart."""
    hit_limit: bool
    """Whether it was cut off rather than ended by itself."""


class Generator:
    """One compiled sampler; `use` swaps the weights under it."""

    def __init__(
        self, stored: StoredModel, prompts: Sequence[str], *, batch_size: int, max_new_tokens: int
    ) -> None:
        """Fix the shapes.

        Args:
            stored: the first model; others must have its shape and tokenizer.
            prompts: rendered generation prompts, without `<bos>`; the longest sets the shape.
            batch_size: rows generated at once.
            max_new_tokens: steps generated at most.

        Raises:
            DataError: there are no prompts.
        """
        if not prompts:
            raise DataError(
                "generation: found no prompts, expected at least one; mend the eval set"
            )
        self._prompts = tuple(prompts)
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens
        tokenizer = stored.tokenizer
        # One more for <bos>, which the sampler puts in front. Too small a length would make Tunix
        # switch to the next power of two without a word.
        longest = 1 + max(len(ids) for ids in tokenizer.encode(list(prompts)))
        self.prompt_length = -(-longest // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
        family = stored.description.family
        layers, kv_heads, head_dim = family.module().cache_shape(stored.description.model)
        _, end_of_turn = chat_template_named(family.chat_template).turn_marks
        self._stop_ids = [EOS_ID, tokenizer.piece_to_id(end_of_turn)]
        self._sampler = Sampler(
            stored.model,
            tokenizer,
            CacheConfig(
                cache_size=self.prompt_length + max_new_tokens,
                num_layers=layers,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
            ),
        )

    def use(self, stored: StoredModel) -> None:
        """Generate with another model's weights from now on."""
        self._sampler.transformer_state = nnx.variables(stored.model)

    def generate(self, check_stop: Callable[[], None], batches: range) -> list[Generation]:
        """Answer prompts greedily, in order.

        Args:
            check_stop: called between batches; raises to end early.
            batches: which ones; a batch is the same prompts whoever generates it.
        """
        done: list[Generation] = []
        for batch in batches:
            check_stop()
            start = batch * self._batch_size
            chunk = self._prompts[start : start + self._batch_size]
            # The last batch is filled with its first prompt: another size would recompile.
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
        # DecodeIds may leave half a character at a cut: SentencePiece writes U+FFFD for it.
        return Generation(text, len(ids), hit_limit=len(ids) >= self._max_new_tokens)
