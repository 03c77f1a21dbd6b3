"""Let Qwen's attention use quantized weights.

The layers of Tunix's Qwen 2 and Qwen 3 convert their weight to the model's dtype before they use
it. A quantized weight cannot be converted that way: QLoRA fails with a TypeError.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx

from tuneloop.training.models.patches.classes import set_class, subclass


def allow_quantized_weights(model: nnx.Module) -> None:
    """Make the layers of a Qwen model use their weights as they are; other models keep theirs."""
    for _, module in nnx.iter_modules(model):
        if type(module).__name__ == "Einsum" and hasattr(module, "dtype"):
            base: Any = type(module)
            set_class(module, _einsum_class(base))


@functools.cache
def _einsum_class(base: Any) -> type:
    def call(self: Any, x: Any) -> Any:
        # qwix puts an object of its own in the place of a quantized Param.
        is_plain = isinstance(self.w, nnx.Variable)
        weight = self.w.get_value() if is_plain else self.w.value
        return jnp.einsum(self.einsum_str, x.astype(self.dtype), weight)

    return subclass(base, __call__=call)
