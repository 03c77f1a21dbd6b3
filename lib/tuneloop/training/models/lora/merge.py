"""Take the adapters off a trained model, and merge them into the weights of its base."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tuneloop.errors import DataError
from tuneloop.specs.training.method import FullMethod, LoraMethod, MethodSpec, QloraMethod
from tuneloop.training.models.hf_writer import host_array
from tuneloop.training.models.lora.apply import A_SUFFIX, B_SUFFIX, lora_items


@dataclass(frozen=True)
class Adapter:
    """The adapter of one layer, in Tunix's axes."""

    a: np.ndarray
    """float32 (*inputs, rank)."""
    b: np.ndarray
    """float32 (rank, *outputs)."""
    scale: float
    """alpha / rank."""
    axes: str
    """Axes of A, B and the weight as einsum letters, such as `Dr,rNH->NDH`."""


def adapters_of(model: nnx.Module, method: LoraMethod) -> dict[str, Adapter]:
    """Copy the adapters of a model to the host.

    Args:
        model: a model from `apply_lora`.
        method: what it was made with.

    Returns:
        Adapters by the name of the weight that they add to, such as `layers.0.attn.q_einsum.w`.
    """
    matrices = {path: host_array(variable.get_value()) for path, variable in lora_items(model)}
    adapters: dict[str, Adapter] = {}
    for path, a in matrices.items():
        if not path[-1].endswith(A_SUFFIX):
            continue
        weight = path[-1].removesuffix(A_SUFFIX)
        axes = _axes(_module_at(model, path[:-1]), weight)
        b = matrices[*path[:-1], weight + B_SUFFIX]
        name = ".".join(map(str, (*path[:-1], weight)))
        adapters[name] = Adapter(a, b, method.alpha / method.rank, axes)
    return adapters


def remove_adapters(model: nnx.Module) -> None:
    """Turn a model from `apply_lora` back into the model without adapters, in place.

    Only for weights that are not quantized. Keeping the model that went into `apply_lora` instead
    would hold its weights twice, because Tunix's training step returns copies of the frozen ones.
    """
    for _, module in nnx.iter_modules(model):
        added = {name for name in vars(module) if "_lora_" in name or name.startswith("qwix_")}
        for name in added | {"disable_quant_stats_update"}:
            delattr(module, name)
    # qwix makes a subclass of the model's class for each model.
    model.__class__ = type(model).__mro__[1]


def merge_adapters(base: nnx.Module, adapters: Mapping[str, Adapter]) -> None:
    """Add adapters to the weights of a model without adapters, in place.

    The sum is computed in float32 and rounded once, to the dtype of each weight. Only one weight is
    held twice at a time. Arrays that `base` shares with another model do not change there.

    Args:
        base: the model that the adapters were trained for: after `remove_adapters`, or loaded again
            if its weights were quantized.
        adapters: as `adapters_of` returns them.

    Raises:
        DataError: the model lacks a weight, or it has another shape.
    """
    variables = {
        ".".join(map(str, path)): variable
        for path, variable in nnx.to_flat_state(nnx.state(base, nnx.Param))
    }
    for name, adapter in adapters.items():
        variable = variables.get(name)
        shape = _weight_shape(adapter)
        if variable is None or variable.shape != shape:
            found = "no such weight" if variable is None else f"shape {variable.shape}"
            raise DataError(
                f"adapter of {name}: found {found} in the model, expected shape {shape};"
                " merge the adapter into the model that it was trained for"
            )
        value = variable.get_value()
        merged = _add(value, adapter.a, adapter.b, axes=adapter.axes, scale=adapter.scale)
        variable.set_value(jax.device_put(merged, value.sharding))


def merge_trained(
    model: nnx.Module, method: MethodSpec, load_base: Callable[[], Any]
) -> tuple[Any, dict[str, Adapter]]:
    """Turn a trained model into the one that is handed on.

    Args:
        model: the model after its last step; not usable afterwards.
        method: how it was trained.
        load_base: loads the model that training started from; called for quantized weights alone,
            after the quantized ones are freed.

    Returns:
        The model with merged weights, and the adapters by weight; none for full training, which
        returns `model` itself.
    """
    if isinstance(method, FullMethod):
        return model, {}
    adapters = adapters_of(model, method)
    if isinstance(method, QloraMethod):
        for array in jax.tree.leaves(nnx.state(model)):
            array.delete()
        model = load_base()
    else:
        remove_adapters(model)
    merge_adapters(model, adapters)
    return model, adapters


def _weight_shape(adapter: Adapter) -> tuple[int, ...]:
    inputs, weight = adapter.axes.split("->")
    letters = inputs.replace(",", "")
    sizes = dict(zip(letters, (*adapter.a.shape, *adapter.b.shape), strict=True))
    return tuple(sizes[letter] for letter in weight)


# Compiled, so that in a process group the host's A and B meet weights on the devices of all.
@functools.partial(jax.jit, static_argnames=("axes", "scale"))
def _add(value: jax.Array, a: Any, b: Any, *, axes: str, scale: float) -> jax.Array:
    """Return `value + scale * B A`, computed in float32, in the dtype of `value`."""
    product = jnp.einsum(axes, a, b, precision=jax.lax.Precision.HIGHEST)
    return (value.astype(jnp.float32) + product * np.float32(scale)).astype(value.dtype)


def _axes(module: Any, weight: str) -> str:
    """Read the axes from a module: qwix notes the einsum with adapter next to the weight."""
    if isinstance(module, nnx.Linear):
        return "ir,ro->io"
    with_adapter = getattr(module, f"{weight}_lora_einsum_str").split("->")[0].split(",")
    own = module.einsum_str.split("->")[0].split(",")
    return f"{with_adapter[1]},{with_adapter[2]}->{own[1]}"


def _module_at(model: nnx.Module, path: tuple[Any, ...]) -> Any:
    module: Any = model
    for key in path:
        module = module[key] if isinstance(key, int) else getattr(module, key)
    return module
