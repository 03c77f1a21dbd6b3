"""Epsilon of the norms as `rms_norm_eps` asks for it; Tunix's Gemmas always add 1e-6."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tuneloop.training.models.patches.classes import set_class, subclass


def set_norm_epsilon(model: Any, epsilon: float) -> None:
    """Make all norms of a Gemma 2 or Gemma 3 add this value to the variance."""
    for _, module in nnx.iter_modules(model):
        if type(module).__name__ == "RMSNorm":
            base: Any = type(module)
            set_class(module, _norm_class(base, epsilon))


@functools.cache
def _norm_class(base: Any, epsilon: float) -> type:
    def call(self: Any, x: Any) -> Any:
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return x * jax.lax.rsqrt(variance + epsilon) * (1 + self.scale.get_value())

    return subclass(base, __call__=call)
