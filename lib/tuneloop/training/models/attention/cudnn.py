"""Attention by cuDNN's fused kernel, for NVIDIA GPUs."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from tuneloop.training.models.attention.scores import visible

_HOPPER = 9.0
"""Compute capability from which the backward pass takes heads of width 256."""


def fits_cudnn(query: jax.Array, *, softcap: float | None, compute_capability: float) -> bool:
    """Return whether cuDNN has a kernel for this attention.

    The limits are those that JAX checks in `check_is_flash_attention`, and those of
    `jax.nn.dot_product_attention`, which does not cap scores.
    """
    length, width = query.shape[1], query.shape[3]
    widest = 256 if compute_capability >= _HOPPER else 128
    is_half = query.dtype in (jnp.bfloat16, jnp.float16)
    is_even = length % 2 == 0  # for the mask of packed rows
    return softcap is None and is_half and is_even and width % 8 == 0 and width <= widest


def cudnn_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    scale: float,
    window: int | None,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """Compute attention; arguments and result are those of `scores_attention`.

    cuDNN takes no segment ids, so packed rows need a mask of (rows, length, length), which all
    heads share.

    Args:
        query: (rows, length, heads, width).
        key: (rows, length, key heads, width).
        value: like `key`.
        segment_ids: int (rows, length); None if every row is one segment with padding at its end.
        scale: factor of the scores.
        window: number of keys that a query sees at most, itself included; None for all.
        implementation: JAX's own for other platforms, with the same meaning.
    """
    mask = None if segment_ids is None else visible(segment_ids, None)[:, None]
    found: jax.Array = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation=implementation,
    )
    return found
