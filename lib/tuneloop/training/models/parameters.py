"""Find the parameters of any flax.nnx model, by path or by dotted name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def live_params(model: nnx.Module) -> dict[str, Any]:
    """Return every parameter's own array by dotted name, such as `layers.0.attn.q_einsum.w`.

    Nothing is copied: the arrays end with the next training step, which reuses their memory.
    """
    named = {".".join(map(str, path)): variable for path, variable in param_items(model)}
    return {name: variable.get_value() for name, variable in sorted(named.items())}


def set_abstract_dtype(model: nnx.Module, dtype: str) -> None:
    """Change the dtype of every parameter of an abstract model, in place.

    Tunix's Gemma 2 and Llama 3 have no setting for it. Their activations follow the parameters.
    """
    for _, variable in param_items(model):
        shape: Any = jax.ShapeDtypeStruct
        variable.set_value(shape(variable.shape, jnp.dtype(dtype)))


def param_items(model: nnx.Module) -> list[tuple[tuple[Any, ...], Any]]:
    """List paths and live variables of the model in flat-state order, with layers by number."""
    return list(nnx.to_flat_state(nnx.state(model, nnx.Param)))
