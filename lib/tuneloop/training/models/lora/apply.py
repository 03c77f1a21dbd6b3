"""Add adapters to a model. The model's own weights are shared, not copied."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import qwix
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tuneloop.errors import SpecError
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod, QloraMethod
from tuneloop.training.models.lora.provider import AdapterProvider
from tuneloop.training.models.lora.targets import adapted_modules
from tuneloop.training.models.patches.quantized_einsum import allow_quantized_weights
from tuneloop.training.models.sharding import remove_sharding_marks

QUANTIZATION_TILE = 64
"""Inputs of a layer that share one scale in quantized weights; smaller where a width is no
multiple of it. The common value for nf4. For o_proj, which sums over heads and their width, qwix
shares a scale among all heads."""
A_SUFFIX, B_SUFFIX = "_lora_a", "_lora_b"
"""What qwix adds to the name of a weight to name its A and its B."""


def apply_lora(
    model: nnx.Module, architecture: Architecture, method: LoraMethod, seed: int
) -> nnx.Module:
    """Return the model with an adapter on every target layer.

    At the start B is zero, so the outputs equal those of the model; with quantized weights, those
    of the quantized model. Only the adapters are `nnx.LoRAParam`, so that Tunix trains them alone.

    Args:
        model: a concrete model; unchanged. The result shares its arrays: while `model` is alive,
            quantization needs memory in addition to it.
        architecture: family and shape of the model.
        method: rank, targets and quantization.
        seed: seed of the A matrices; the same seed gives the same bits in every process.

    Raises:
        SpecError: the targets do not fit the family, or not every target layer was found.
    """
    modules = adapted_modules(architecture, method)
    is_quantized = isinstance(method, QloraMethod)
    provider = _provider(architecture, method, modules)
    adapted = _abstract_adapted(model, provider, is_quantized=is_quantized)
    _check_count(adapted, modules, architecture)
    sharding = _sharding_of_adapters(model)
    rng = np.random.default_rng(seed)
    base = dict(nnx.to_flat_state(nnx.state(model)))
    for path, variable in nnx.to_flat_state(nnx.state(adapted)):
        if isinstance(variable, nnx.LoRAParam):
            _initialize(path, variable, rng, sharding)
        elif path in base:
            variable.set_value(base[path].get_raw_value())
    if is_quantized:
        _quantize(adapted, base)
    return adapted


def lora_items(model: nnx.Module) -> list[tuple[tuple[Any, ...], nnx.LoRAParam]]:
    """List paths and live variables of all A and B matrices, in flat-state order."""
    return list(nnx.to_flat_state(nnx.state(model, nnx.LoRAParam)))


def _provider(
    architecture: Architecture, method: LoraMethod, modules: tuple[str, ...]
) -> AdapterProvider:
    quantized: dict[str, Any] = {}
    if isinstance(method, QloraMethod):
        widths = (architecture.embed_dim, architecture.hidden_dim, architecture.head_dim)
        tile = math.gcd(QUANTIZATION_TILE, *widths)
        quantized = {"weight_qtype": method.quantization, "tile_size": tile}
    return AdapterProvider(
        module_path=rf".*/({'|'.join(modules)})",
        rank=method.rank,
        alpha=method.alpha,
        dropout=method.dropout,
        **quantized,
    )


def _abstract_adapted(
    model: nnx.Module, provider: AdapterProvider, *, is_quantized: bool
) -> nnx.Module:
    """Build the adapted model with shapes instead of arrays.

    qwix finds the layers by running the model. On real arrays that would copy the model, run it,
    and quantize all layers at once.
    """
    graph, state = nnx.split(model)
    ids = jnp.zeros((1, 2), jnp.int32)

    def build(state: Any) -> nnx.Module:
        shapes = nnx.merge(graph, state)
        if is_quantized:
            allow_quantized_weights(shapes)
        arguments = (ids, ids, None, jnp.ones((1, 2, 2), bool))
        return qwix.apply_lora_to_model(shapes, provider, *arguments, rngs=nnx.Rngs(0))

    adapted: nnx.Module = nnx.eval_shape(build, state)
    return adapted


def _check_count(adapted: nnx.Module, modules: tuple[str, ...], architecture: Architecture) -> None:
    found = len(lora_items(adapted)) // 2
    expected = len(modules) * architecture.num_layers
    if found != expected:
        raise SpecError(
            f"train.method: found {found} layers for adapters in the {architecture.family} model,"
            f" expected {expected} ({', '.join(modules)} in each of {architecture.num_layers}"
            " blocks); use method: full and report this, the model's modules have other names"
        )


def _initialize(
    path: tuple[Any, ...],
    variable: nnx.LoRAParam,
    rng: np.random.Generator,
    sharding: NamedSharding | None,
) -> None:
    """Set A to He-uniform values and B to zero, in float32; qwix would use the base's dtype."""
    shape = variable.shape
    if path[-1].endswith(A_SUFFIX):
        bound = math.sqrt(6 / math.prod(shape[:-1]))
        value = rng.uniform(-bound, bound, shape).astype(np.float32)
    else:
        value = np.zeros(shape, np.float32)
    remove_sharding_marks(variable)  # the adapters are small and copied to every device
    if sharding is None:
        variable.set_value(jnp.array(value))
    else:
        variable.set_value(jax.make_array_from_callback(shape, sharding, value.__getitem__))


def _sharding_of_adapters(model: nnx.Module) -> NamedSharding | None:
    """Return the placement on all devices of the model's mesh; None for a model without mesh."""
    for _, variable in nnx.to_flat_state(nnx.state(model)):
        sharding = getattr(variable.get_raw_value(), "sharding", None)
        if isinstance(sharding, NamedSharding):
            return NamedSharding(sharding.mesh, P())  # type: ignore[no-untyped-call]
    return None


def _quantize(adapted: nnx.Module, base: dict[tuple[Any, ...], Any]) -> None:
    """Quantize the weights of the target layers, one at a time."""
    for path, _ in lora_items(adapted):
        if not path[-1].endswith(A_SUFFIX):
            continue
        weight = (*path[:-1], path[-1].removesuffix(A_SUFFIX))
        nested: Any = base[weight].get_raw_value()
        for key in reversed(weight):
            nested = {key: nested}
        nnx.update(adapted, qwix.quantize_params(nested, adapted))
