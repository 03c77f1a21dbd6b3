"""RoPE as `config.json` asks for it.

Tunix's Llama 3 and Qwen 3 ignore `rope_theta` (they always use 1,000,000), its Gemma 2 always uses
10,000, and none of its families knows the scaling of Llama 3.1.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from tuneloop.specs.training.architecture import Rope
from tuneloop.training.models.patches.classes import set_class, subclass, with_globals


def inverse_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Compute the angle per position of each rotated pair.

    Args:
        rope: base and scaling.
        head_dim: width of an attention head.

    Returns:
        float32 (head_dim / 2,), computed in float32 as transformers does: at position 100,000 the
        rounding of a frequency moves the angle by 0.01.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = np.float32(1.0) / np.float32(rope.theta) ** exponents
    if rope.kind == "linear":
        frequencies = frequencies / np.float32(rope.factor)
    if rope.kind == "llama3":
        frequencies = _llama3_scaled(frequencies, rope)
    return frequencies.astype(np.float32)


def rotate(inputs: Any, positions: Any, frequencies: np.ndarray) -> Any:
    """Rotate the pairs (i, i + head_dim / 2) of every head by its position.

    Args:
        inputs: (batch, length, heads, head_dim).
        positions: int (batch, length).
        frequencies: float32 (head_dim / 2,), of `inverse_frequencies`.

    Returns:
        Shape and dtype of `inputs`.
    """
    angles = positions[..., None].astype(jnp.float32) * frequencies
    sin, cos = jnp.sin(angles)[..., None, :], jnp.cos(angles)[..., None, :]
    first, second = jnp.split(inputs, 2, axis=-1)
    rotated = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(rotated, axis=-1).astype(inputs.dtype)


def set_attention_rope(attention: Any, rope: Rope, head_dim: int) -> None:
    """Make one attention module of Llama 3, Qwen 3, Gemma 2 or Gemma 3 use these settings."""
    base: Any = type(attention)
    set_class(attention, _attention_class(base, rope, head_dim))


def set_model_rope(model: Any, rope: Rope, head_dim: int) -> None:
    """Make a Qwen 2, which computes the angles once for all layers, use these settings."""
    base: Any = type(model)
    set_class(model, _qwen2_class(base, rope, head_dim))


# Cached, so that equal settings give the same class and compiled functions are shared.
@functools.cache
def _attention_class(base: Any, rope: Rope, head_dim: int) -> type:
    frequencies = inverse_frequencies(rope, head_dim)

    def apply_rope(inputs: Any, positions: Any, **ignored: Any) -> Any:
        return rotate(inputs, positions, frequencies)

    return subclass(base, block=with_globals(base.block, apply_rope=apply_rope))


@functools.cache
def _qwen2_class(base: Any, rope: Rope, head_dim: int) -> type:
    frequencies = inverse_frequencies(rope, head_dim)

    def sin_and_cos(positions: Any, head_dim: int, theta: float) -> tuple[Any, Any]:
        angles = positions[..., None].astype(jnp.float32) * frequencies
        return jnp.sin(angles), jnp.cos(angles)

    call = with_globals(base.__call__, _generate_pos_embeddings=sin_and_cos)
    return subclass(base, __call__=call)


def _llama3_scaled(frequencies: np.ndarray, rope: Rope) -> np.ndarray:
    """Scale low frequencies fully, high ones not at all, and those between smoothly."""
    wavelengths = 2 * math.pi / frequencies
    cycles = rope.original_max_positions / wavelengths
    share = (cycles - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    smooth = (1 - share) * frequencies / rope.factor + share * frequencies
    is_low = wavelengths > rope.original_max_positions / rope.low_freq_factor
    is_high = wavelengths < rope.original_max_positions / rope.high_freq_factor
    return np.where(is_low, frequencies / rope.factor, np.where(is_high, frequencies, smooth))
