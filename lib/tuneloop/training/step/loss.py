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
    """Add the positions to a batch; runs inside jit.

    Positions count from the start of the row even if it holds several segments: RoPE needs only
    their differences, and Gemma 2's sliding window compares positions with places in the row.

    Args:
        batch: the arrays of `Batch`: `tokens`, `segment_ids` and `loss_mask`, each of shape
            (batch, length).

    Returns:
        The batch, with `positions` (int32, (batch, length)).
    """
    shape = batch["tokens"].shape
    return {**batch, "positions": jnp.broadcast_to(jnp.arange(shape[-1]), shape)}


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
    hidden = hidden_states(model, tokens, inputs["positions"], inputs["segment_ids"])
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
