"""Read, check and set the parameters of any flax.nnx model by dotted name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tuneloop.errors import DataError

NAMES_SHOWN = 3
"""Parameter names listed per error message."""


def flat_params(model: nnx.Module) -> dict[str, np.ndarray]:
    """Copy every parameter of a model, keyed by dotted name such as `layers.0.attn.q_einsum.w`.

    Args:
        model: a concrete model, not an abstract one.

    Returns:
        Copies sorted by name; later training steps do not change them.
    """
    params = {name: np.array(variable.get_value()) for name, variable in _named_params(model)}
    return dict(sorted(params.items()))


def live_params(model: nnx.Module) -> dict[str, Any]:
    """Return every parameter's own array by dotted name, sorted; nothing is copied.

    The arrays end with the next training step, which reuses their memory.
    """
    return {
        name: variable.get_value()
        for name, variable in sorted(_named_params(model), key=lambda each: each[0])
    }


def load_params(model: nnx.Module, params: Mapping[str, np.ndarray]) -> None:
    """Set every parameter by its dotted name, in place; the model may be abstract.

    Args:
        model: changed in place; unchanged if an error is raised.
        params: arrays by parameter name, as `flat_params` returns them.

    Raises:
        DataError: names, shapes or dtypes do not match the model.
    """
    variables = dict(_named_params(model))
    _check_names(found=set(params), expected=set(variables))
    for name, variable in variables.items():
        _check_array(name, params[name], variable)
    for name, variable in variables.items():
        variable.set_value(jnp.array(params[name]))


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


def _named_params(model: nnx.Module) -> list[tuple[str, Any]]:
    return [(".".join(map(str, path)), variable) for path, variable in param_items(model)]


def _check_names(found: set[str], expected: set[str]) -> None:
    missing, unknown = sorted(expected - found), sorted(found - expected)
    if missing or unknown:
        raise DataError(
            f"model parameters: {len(missing)} missing ({_shown(missing)}) and {len(unknown)} "
            f"unknown ({_shown(unknown)}), expected the {len(expected)} names of this model; "
            "use the model spec that the weights were trained with"
        )


def _shown(names: list[str]) -> str:
    tail = [] if len(names) <= NAMES_SHOWN else ["..."]
    return ", ".join(names[:NAMES_SHOWN] + tail) or "none"


def _check_array(name: str, array: np.ndarray, variable: Any) -> None:
    found = (tuple(array.shape), str(array.dtype))
    expected = (tuple(variable.shape), str(variable.dtype))
    if found != expected:
        raise DataError(
            f"model parameter {name}: found shape {found[0]} and dtype {found[1]}, expected "
            f"{expected[0]} and {expected[1]}; use the model spec and the tokenizer that the "
            "weights were trained with"
        )
