"""The attention function that the blocks of all families call."""

from __future__ import annotations

import jax

from tuneloop.training.models.attention.cudnn import cudnn_attention, fits_cudnn
from tuneloop.training.models.attention.options import AttentionOptions
from tuneloop.training.models.attention.scores import scores_attention
from tuneloop.training.models.attention.splash import splash_attention


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array,
    *,
    scale: float,
    options: AttentionOptions,
    window: int | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Compute causal attention within segments, by the kernel of the platform.

    TPUs use JAX's splash kernel, NVIDIA GPUs cuDNN where it has a kernel for the attention, and
    everything else computes all scores. The results agree to 1e-5 in float32 and to the rounding
    of the inputs in bfloat16, except for the positions of padding, which have no meaning.

    Args:
        query: (rows, length, heads, width).
        key: (rows, length, key heads, width); consecutive query heads share a key head.
        value: like `key`.
        segment_ids: int (rows, length). A position sees only positions of its own segment; 0 is
            padding.
        scale: factor of the scores.
        options: platform and devices.
        window: number of keys that a query sees at most, itself included; None for all.
        softcap: scores x become `softcap * tanh(x / softcap)`; None leaves them.

    Returns:
        Shape and dtype of `query`.
    """
    if options.platform == "tpu":
        return splash_attention(
            query,
            key,
            value,
            segment_ids if options.is_packed else None,
            scale=scale,
            window=window,
            softcap=softcap,
            mesh=options.mesh,
        )
    capability = options.compute_capability
    is_gpu = options.platform in ("gpu", "cuda")
    if is_gpu and fits_cudnn(query, softcap=softcap, compute_capability=capability):
        segments = segment_ids if options.is_packed else None
        return cudnn_attention(query, key, value, segments, scale=scale, window=window)
    return scores_attention(
        query, key, value, segment_ids, scale=scale, window=window, softcap=softcap
    )
