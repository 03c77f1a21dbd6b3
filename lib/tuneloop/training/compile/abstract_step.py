"""The training step with shapes instead of arrays: model, optimizer state and batch on a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import FullMethod, LoraMethod
from tuneloop.specs.training.train import TrainSpec
from tuneloop.training.models.lora.apply import apply_lora
from tuneloop.training.models.registry import family_named
from tuneloop.training.models.sharding import remove_sharding_marks, sharding_of
from tuneloop.training.step.mesh import row_spec
from tuneloop.training.step.optimizers import build_optimizer

INPUTS = {"tokens": jnp.int32, "segment_ids": jnp.int32, "loss_mask": jnp.bool_}
"""Arrays of a batch, each of shape (parts, rows, length)."""


@dataclass(frozen=True)
class Placement:
    """Where the arrays of a step are."""

    device: Any
    """The only device; used without a mesh."""
    mesh: Mesh | None
    """Several devices; None for one."""

    def of(self, *axes: Any) -> Any:
        """Return the sharding of an array that is split along these mesh axes."""
        if self.mesh is None:
            return SingleDeviceSharding(self.device)
        return NamedSharding(self.mesh, P(*axes))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class AbstractStep:
    """The arguments of `step.update.update`, without arrays."""

    model: Any
    optimizer: Any
    inputs: dict[str, jax.ShapeDtypeStruct]


def build_abstract_step(
    spec: TrainSpec, architecture: Architecture, placement: Placement, *, steps: int
) -> AbstractStep:
    """Build the arguments of a training step; nothing is allocated.

    Args:
        spec: method, optimizer, number format and sizes.
        architecture: family and shape of the model.
        placement: the devices.
        steps: number of optimizer updates of the whole training, for the schedule.

    Raises:
        SpecError: the family is unknown, or the adapters do not fit it.
    """
    model = _model(spec, architecture, placement)
    optimizer = _optimizer(spec, model, placement, steps)
    parts = spec.accumulation_steps
    shape = (parts, spec.batch_size // parts, spec.max_length_tokens)
    by_rows = placement.of(*row_spec(1))
    inputs = {name: _abstract(shape, dtype, by_rows) for name, dtype in INPUTS.items()}
    return AbstractStep(model, optimizer, inputs)


def _abstract(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    struct: Any = jax.ShapeDtypeStruct
    found: jax.ShapeDtypeStruct = struct(shape, dtype, sharding=sharding)
    return found


def _model(spec: TrainSpec, architecture: Architecture, placement: Placement) -> Any:
    # As in stages/models/base.py: weights that are trained are float32, and frozen ones are in the
    # format of the computation.
    is_trained = isinstance(spec.method, FullMethod)
    dtype = "float32" if is_trained else spec.dtype
    model = family_named(architecture.family).module().abstract_model(architecture, dtype)
    method = spec.method
    if isinstance(method, LoraMethod):
        model = nnx.eval_shape(lambda base: apply_lora(base, architecture, method, 0), model)
    for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        _place(variable, placement)
    _place_rest(model, placement)
    return model


def _place(variable: Any, placement: Placement) -> None:
    """Give a parameter its sharding; a quantized one is a tree of several arrays."""

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        sharding = (
            placement.of()
            if placement.mesh is None
            else sharding_of(variable, leaf.shape, placement.mesh)
        )
        return _abstract(leaf.shape, leaf.dtype, sharding)

    variable.set_raw_value(jax.tree.map(place, variable.get_raw_value()))
    remove_sharding_marks(variable)


def _place_rest(module: Any, placement: Placement) -> None:
    """Copy to every device what has no place yet."""

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        return _abstract(leaf.shape, leaf.dtype, placement.of())

    def has_place(leaf: Any) -> bool:
        return getattr(leaf, "sharding", None) is not None

    for _, variable in nnx.to_flat_state(nnx.state(module)):
        value = variable.get_raw_value()
        if not all(map(has_place, jax.tree.leaves(value))):
            variable.set_raw_value(jax.tree.map(place, value))


def _optimizer(spec: TrainSpec, model: Any, placement: Placement, steps: int) -> Any:
    """Build the optimizer; a state with the shape of its parameter is split as the parameter is."""
    kind = nnx.LoRAParam if jax.tree.leaves(nnx.state(model, nnx.LoRAParam)) else nnx.Param
    transform = build_optimizer(spec.optimizer, steps)
    optimizer = nnx.eval_shape(lambda model: nnx.Optimizer(model, transform, wrt=kind), model)
    params: dict[tuple[Any, ...], Any] = {
        path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model, kind))
    }
    for path, variable in nnx.to_flat_state(nnx.state(optimizer)):
        value = variable.get_value()
        if not hasattr(value, "shape"):  # optax's mark of a parameter that has no such state
            continue
        param = next((p for tail, p in params.items() if path[-len(tail) :] == tail), None)
        is_like = param is not None and param.shape == value.shape
        sharding = param.sharding if param is not None and is_like else placement.of()
        variable.set_value(_abstract(value.shape, value.dtype, sharding))
    return optimizer
