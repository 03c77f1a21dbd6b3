"""The mesh of devices that train together, and how a batch is split over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tuneloop.specs.training.mesh import MeshSizes, MeshSpec
from tuneloop.training.models.sharding import AXES, ROW_AXES


def build_mesh(spec: MeshSpec, devices: Sequence[Any]) -> Mesh:
    """Arrange devices as a mesh; those of a TPU slice are neighbours on `fsdp` and `tp`.

    Args:
        spec: sizes of the axes.
        devices: all devices of all processes.

    Raises:
        SpecError: the sizes do not multiply to the number of devices.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = spec.sizes(len(devices), slices)
    data, fsdp, tp = sizes.data, sizes.fsdp, sizes.tp
    if slices > 1 and data % slices == 0:
        inside = (data // slices, fsdp, tp)
        arranged = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices)
    elif devices[0].platform == "tpu":
        arranged = mesh_utils.create_device_mesh((data, fsdp, tp), devices)
    else:
        arranged = np.array(devices).reshape(data, fsdp, tp)
    return Mesh(arranged, AXES)


def sizes_of(mesh: Mesh | None) -> MeshSizes:
    """Return the sizes of a mesh's axes; all are 1 for one device."""
    return MeshSizes() if mesh is None else MeshSizes(**mesh.shape)


def row_spec(row_axis: int) -> P:
    """Return how the arrays of a batch are split.

    Args:
        row_axis: axis of the arrays that counts the rows.
    """
    return P(*[None] * row_axis, ROW_AXES)  # type: ignore[no-untyped-call]


def split_by_rows(arrays: Any, mesh: Mesh | None) -> Any:
    """Constrain arrays whose first axis counts the rows of a batch; runs inside jit.

    Args:
        arrays: a pytree of arrays.
        mesh: the devices; None leaves the arrays as they are.
    """
    if mesh is None:
        return arrays
    return jax.lax.with_sharding_constraint(arrays, NamedSharding(mesh, row_spec(0)))  # type: ignore[no-untyped-call]


def split_activations(module: Any) -> None:
    """Let a module of Tunix split the rows of its activations over all row axes, in place.

    Tunix names `fsdp` alone, so on GPUs and TPUs every copy of the model would compute all rows.
    """
    if hasattr(module, "shd_config"):
        module.shd_config = _over_all_row_axes(module.shd_config)
    config: Any = getattr(module, "config", None)
    if hasattr(config, "shd_config"):
        config = dataclasses.replace(config, shd_config=_over_all_row_axes(config.shd_config))
        module.config = config


def _over_all_row_axes(marks: Any) -> Any:
    """Return Tunix's marks with the activations' rows split over all row axes."""
    split = {
        each.name: tuple(ROW_AXES if axis == "fsdp" else axis for axis in axes)
        for each in dataclasses.fields(marks)
        if each.name.startswith("act_") and (axes := getattr(marks, each.name))
    }
    return dataclasses.replace(marks, **split)


def spread_optimizer(optimizer: Any, mesh: Mesh) -> None:
    """Put the optimizer state on the devices, in place.

    What has the shape of a parameter was made from it, and is split as it is. The rest, such as the
    step count and Adafactor's factors, is copied to every device.
    """
    everywhere = NamedSharding(mesh, P())  # type: ignore[no-untyped-call]

    def spread(value: jax.Array) -> jax.Array:
        if isinstance(value.sharding, NamedSharding) and value.sharding.mesh == mesh:
            return value
        host = np.asarray(value)
        return jax.make_array_from_callback(host.shape, everywhere, host.__getitem__)

    state = nnx.state(optimizer, nnx.optimizer.OptState)
    nnx.update(optimizer, jax.tree.map(spread, state))


def places_of(*modules: nnx.Module) -> list[Any]:
    """Return the shardings of the arrays of models and optimizers, for `keep_places`."""
    return [jax.tree.map(lambda array: array.sharding, nnx.state(module)) for module in modules]


def keep_places(places: Sequence[Any], *modules: nnx.Module) -> None:
    """Keep the arrays of modules where they were; runs inside jit.

    Without it, XLA may choose other places for its results, and the next step is compiled again.

    Args:
        places: of `places_of`.
        modules: the same modules, with new values.
    """

    def keep(array: jax.Array, sharding: Any) -> jax.Array:
        if not isinstance(sharding, NamedSharding):
            return array
        kept: jax.Array = jax.lax.with_sharding_constraint(array, sharding)  # type: ignore[no-untyped-call]
        return kept

    for module, old in zip(modules, places, strict=True):
        nnx.update(module, jax.tree.map(keep, nnx.state(module), old))
