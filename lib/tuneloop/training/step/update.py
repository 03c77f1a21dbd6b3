"""One step of training, and one batch of validation: what is compiled.

Both are pure functions of the model, the optimizer and a batch, so that they can be compiled for
machines that are not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.models.attention.options import attention_options
from tuneloop.training.models.lora.provider import adapter_dropout
from tuneloop.training.step.loss import model_inputs, token_losses
from tuneloop.training.step.mesh import keep_places, split_activations


@dataclass(frozen=True)
class StepOptions:
    """What is fixed when a step is compiled."""

    dtype: jnp.dtype
    """Number format of the computation."""
    remat: str
    """What the backward pass computes again; see `TrainSpec.remat`."""
    seed: int
    """Seed of dropout."""
    mesh: Mesh | None = None
    """Devices that the rows are split over; None for one device."""
    is_packed: bool = True
    """Whether a row may hold several examples."""

    @classmethod
    def from_spec(cls, spec: TrainSpec, seed: int, mesh: Mesh | None) -> StepOptions:
        """Take the options of a train spec."""
        return cls(jnp.dtype(spec.dtype), spec.remat, seed, mesh, spec.packing)


def update(
    model: Any,
    optimizer: Any,
    inputs: dict[str, jax.Array],
    *,
    options: StepOptions,
    places: Sequence[Any] | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array], jax.Array]:
    """Update the model once; runs inside jit.

    The parts of the batch are computed one after the other. Each part's loss is divided by the
    targets of the whole batch, so that the sums over the parts are the loss and the gradient of the
    whole batch. (optax.MultiSteps would average the means of the parts.)

    Args:
        model: changed in place. Only its adapters are trained if it has any.
        optimizer: changed in place.
        inputs: arrays of a batch, each of shape (parts, rows, length).
        options: number format, memory and devices.
        places: with several devices, where the arrays of model and optimizer are.

    Returns:
        The loss in nats per response token, both other values as a pair, and the gradient norm
        before clipping.
    """
    kind = nnx.LoRAParam if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)) else nnx.Param
    graph, trained, rest = nnx.split(model, kind, ...)
    targets = jnp.maximum(inputs["loss_mask"][..., 1:].sum(), 1)
    key = jax.random.fold_in(jax.random.key(options.seed), optimizer.step.get_value())

    def loss_of(trained: Any, part: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        copy = compute_copy(options, graph, trained, rest)
        with adapter_dropout(copy, key):
            total, _ = token_losses(copy, model_inputs(part), options.mesh)
        return total / targets

    def compute(numbered: Any) -> Any:
        number, part = numbered
        return jax.value_and_grad(loss_of)(trained, part, jax.random.fold_in(key, number))

    parts = inputs["tokens"].shape[0]
    numbered = (jnp.arange(parts), inputs)
    if parts == 1:  # without a loop, XLA needs no second buffer for the gradients
        loss, gradients = compute(jax.tree.map(lambda array: array[0], numbered))
    else:
        zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, trained))
        (loss, gradients), _ = jax.lax.scan(
            lambda sums, each: (jax.tree.map(jnp.add, sums, compute(each)), None),
            zeros,
            numbered,
        )
    norm = optax.global_norm(gradients)
    optimizer.update(model, gradients)
    if places is not None:
        keep_places(places, model, optimizer)
    return loss, (loss, norm), norm


def measure(
    model: Any, inputs: dict[str, jax.Array], *, options: StepOptions
) -> tuple[jax.Array, jax.Array]:
    """Return the sum of the losses of a batch and its number of targets; runs inside jit.

    Args:
        model: not changed; its dropout is off.
        inputs: arrays of a batch, each of shape (rows, length).
        options: number format and devices.
    """
    copy = compute_copy(options, *nnx.split(model))
    return token_losses(copy, model_inputs(inputs), options.mesh)


def compute_copy(options: StepOptions, graph: Any, *states: Any) -> Any:
    """Merge a model for one computation, in bfloat16 if that is the dtype.

    Adapters stay float32; their layers return the dtype of the model. Quantized weights stay as
    they are. Some of Tunix's families convert to a `dtype` that each module or its config holds.

    Args:
        options: number format, which leaves the model as it is if it is float32, and what the
            backward pass computes again.
        graph: the graph definition that `nnx.split` returns.
        states: the states that it returns. They do not change: their values may be tracers, so that
            gradients are computed with respect to the unconverted ones.
    """
    dtype = options.dtype

    def convert(path: tuple[Any, ...], variable: Any) -> Any:
        value = variable.get_value()
        is_weight = isinstance(variable, nnx.Param) and not isinstance(variable, nnx.LoRAParam)
        if is_weight and isinstance(value, jax.Array) and value.dtype == jnp.float32:
            value = value.astype(dtype)
        return variable.replace(value)

    # Merging shares the variables, so that a change of one would change the model itself, and
    # nnx.remat, which sets them, would refuse those from outside a gradient.
    states = tuple(nnx.map_state(convert, state) for state in states)
    model = nnx.merge(graph, *states)
    attention = attention_options(options.mesh, is_packed=options.is_packed)
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "dtype") and dtype != jnp.float32:
            module.dtype = dtype
        if hasattr(module, "attention_options"):
            module.attention_options = attention
        _set_remat(module, options.remat)
        if options.mesh is not None:
            split_activations(module)
        config: Any = getattr(module, "config", None)
        if hasattr(config, "dtype") and dtype != jnp.float32:
            module.config = dataclasses.replace(config, dtype=dtype)
    return model


def _set_remat(module: Any, remat: str) -> None:
    """Set what a module's backward pass computes again; every family has an enum of its own."""
    if hasattr(module, "remat_config"):
        module.remat_config = type(module.remat_config)[remat.upper()]
    config: Any = getattr(module, "config", None)
    if hasattr(config, "remat_config"):
        chosen = type(config.remat_config)[remat.upper()]
        module.config = dataclasses.replace(config, remat_config=chosen)
