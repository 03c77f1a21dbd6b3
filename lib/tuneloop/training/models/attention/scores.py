"""The reference: attention that computes all scores; for CPUs, and where no kernel fits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def visible(segment_ids: jax.Array, window: int | None) -> jax.Array:
    """Return which keys each query sees: those of its segment up to itself, within the window.

    Padding is a segment of its own (0), so a row of the result is never empty.

    Args:
        segment_ids: int (rows, length).
        window: number of keys that a query sees at most, itself included; None for all.

    Returns:
        bool (rows, length of the queries, length of the keys).
    """
    places = jnp.arange(segment_ids.shape[-1])
    distance = places[:, None] - places[None, :]
    is_near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    return (segment_ids[:, :, None] == segment_ids[:, None, :]) & is_near


def scores_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> jax.Array:
    """Compute attention with the scores of all pairs of positions in memory, in float32.

    Args:
        query: (rows, length, heads, width).
        key: (rows, length, key heads, width); consecutive query heads share a key head.
        value: like `key`.
        segment_ids: int (rows, length).
        scale: factor of the scores.
        window: number of keys that a query sees at most, itself included; None for all.
        softcap: scores x become `softcap * tanh(x / softcap)`; None leaves them.

    Returns:
        Shape and dtype of `query`.
    """
    rows, length, heads, width = query.shape
    groups = query.reshape(rows, length, key.shape[2], heads // key.shape[2], width)
    scores = scale * jnp.einsum(
        "btkgh,bskh->bkgts", groups, key, preferred_element_type=jnp.float32
    )
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    mask = visible(segment_ids, window)[:, None, None]
    scores = jnp.where(mask, scores, float(np.finfo(np.float32).min))
    shares = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", shares, value).reshape(query.shape)
