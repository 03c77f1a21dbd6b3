"""The training loss, and the model inputs that it needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def model_inputs(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Build positions and the attention mask of a batch; runs inside jit.

    A token attends to itself and to earlier tokens of its own segment. Padding is a segment of its
    own (0), so tokens never see it, and no row of the mask is empty. Positions count from the start
    of the row even if it holds several segments: Gemma 2's sliding window compares positions with
    places in the row.

    Args:
        batch: the arrays of `Batch`: `tokens`, `segment_ids` and `loss_mask`, each of shape
            (batch, length).

    Returns:
        The arguments of `response_loss` besides the model.
    """
    segments = batch["segment_ids"]
    length = segments.shape[-1]
    same_segment = segments[:, :, None] == segments[:, None, :]
    causal = jnp.tril(jnp.ones((length, length), dtype=jnp.bool_))
    return {
        "tokens": batch["tokens"],
        "loss_mask": batch["loss_mask"],
        "positions": jnp.broadcast_to(jnp.arange(length), segments.shape),
        "attention_mask": same_segment & causal,
    }


def token_losses(
    model: Any,
    tokens: jax.Array,
    loss_mask: jax.Array,
    positions: jax.Array,
    attention_mask: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Sum the negative log-likelihood of the target tokens, and count them.

    Tunix's default loss multiplies with one-hot targets, whose (batch, length, vocabulary) buffer
    dominates memory at Gemma's 262,144 pieces; this function gathers the targets instead.

    Args:
        model: called as (tokens, positions, cache, attention mask) -> (logits, cache).
        tokens: int32 (batch, length).
        loss_mask: bool (batch, length), true where the token is a target.
        positions: int32 (batch, length).
        attention_mask: bool (batch, length, length).

    Returns:
        Two float32 scalars: the sum in nats, and the number of targets.
    """
    logits, _ = model(tokens, positions, None, attention_mask)
    logits = logits[:, :-1].astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    mask = loss_mask[:, 1:].astype(jnp.float32)
    return (losses * mask).sum(), mask.sum()


def response_loss(
    model: Any,
    tokens: jax.Array,
    loss_mask: jax.Array,
    positions: jax.Array,
    attention_mask: jax.Array,
) -> jax.Array:
    """Compute the mean of `token_losses` in nats per target token; 0 if there are no targets."""
    total, count = token_losses(model, tokens, loss_mask, positions, attention_mask)
    return total / jnp.maximum(count, 1.0)
