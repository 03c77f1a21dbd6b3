"""The training loss, and the model inputs that it needs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tuneloop.training.models.head import head_of, hidden_states
from tuneloop.training.step.cross_entropy import summed_cross_entropy
from tuneloop.training.step.mesh import split_by_rows


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
        `tokens` and `loss_mask` as they are, `positions` (int32, (batch, length)) and
        `attention_mask` (bool, (batch, length, length)).
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
    model: Any, inputs: dict[str, jax.Array], mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array]:
    """Sum the negative log-likelihood of the target tokens, and count them.

    Args:
        model: a model of any family.
        inputs: the arrays of `model_inputs`.
        mesh: devices that the rows are split over; None for one device.

    Returns:
        Two float32 scalars: the sum in nats, and the number of targets.
    """
    tokens = inputs["tokens"]
    hidden = hidden_states(model, tokens, inputs["positions"], inputs["attention_mask"])
    # Each position predicts the token after it; the last one predicts none.
    is_last = jnp.arange(tokens.shape[1]) == tokens.shape[1] - 1
    targets = jnp.roll(tokens, -1, axis=1)
    mask = jnp.roll(inputs["loss_mask"], -1, axis=1) & ~is_last
    head = head_of(model)
    # Qwen's models return float32 for any dtype of their computation.
    hidden = hidden.astype(head.weight.dtype)
    # Without this, XLA may split the shifts above along the rows, and has computed wrong masks.
    hidden, targets, mask = split_by_rows((hidden, targets, mask), mesh)
    return summed_cross_entropy(hidden, head, targets, mask, mesh=mesh), mask.sum(dtype=jnp.float32)
