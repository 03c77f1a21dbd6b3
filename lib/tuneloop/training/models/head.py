"""The head of a language model apart from its blocks: the last hidden states, and their projection.

Tunix's models project every position to logits. At Gemma's 262,144 pieces these are most of the
memory of a training step, and most positions have no target.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from tuneloop.training.models.patches.classes import set_class, subclass


@dataclass(frozen=True)
class Head:
    """The projection from hidden states to logits."""

    weight: jax.Array
    """(vocabulary, width) if the embedding is used, otherwise (width, vocabulary)."""
    is_embedding: bool
    """Whether the weight is that of the embedding."""
    softcap: float | None
    """Logits x become `softcap * tanh(x / softcap)`; null leaves them as they are."""


def head_of(model: Any) -> Head:
    """Return the head of any family's model."""
    softcap = getattr(model, "final_logits_softcap", None)
    if hasattr(model, "lm_head"):
        return Head(model.lm_head.w.get_value(), False, softcap)
    return Head(model.embedder.input_embedding.get_value(), True, softcap)


def hidden_states(
    model: Any, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    """Compute the hidden states after the last norm.

    Args:
        model: any family's model.
        tokens: int32 (rows, length).
        positions: int32 (rows, length).
        segment_ids: int32 (rows, length). A token sees itself and earlier tokens of its segment; 0
            is padding.

    Returns:
        (rows, length, width), in the dtype of the model's computation.
    """
    with _without_head(model):
        hidden: jax.Array = model(tokens, positions, None, segment_ids)[0]
    return hidden


@contextmanager
def _without_head(model: Any) -> Iterator[None]:
    """Let the model return what it would project."""
    module = model.lm_head if hasattr(model, "lm_head") else model.embedder
    base: Any = type(module)
    softcap = getattr(model, "final_logits_softcap", None)
    set_class(module, _identity_class(base))
    if softcap is not None:
        model.final_logits_softcap = None
    try:
        yield
    finally:
        set_class(module, base)
        if softcap is not None:
            model.final_logits_softcap = softcap


@functools.cache
def _identity_class(base: Any) -> type:
    def identity(self: Any, x: Any) -> Any:
        return x

    name = "decode" if hasattr(base, "decode") else "__call__"
    return subclass(base, **{name: identity})
