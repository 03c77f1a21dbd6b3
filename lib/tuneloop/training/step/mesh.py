"""The mesh of devices that train together, and how a batch is split over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tuneloop.errors import SpecError
from tuneloop.specs.training import MeshSpec

AXES = ("data", "fsdp", "tp")
"""Names of the axes; Tunix's models mark their parameters with the last two."""
ROW_AXES = ("data", "fsdp")
"""Axes that the rows of a batch are split over."""


def build_mesh(spec: MeshSpec, devices: Sequence[Any]) -> Mesh:
    """Arrange devices as a mesh; those of a TPU slice are neighbours on `fsdp` and `tp`.

    Args:
        spec: sizes of the axes.
        devices: all devices of all processes.

    Raises:
        SpecError: the sizes do not multiply to the number of devices.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    data, tp = spec.data or slices, spec.tp
    fsdp = spec.fsdp or max(1, len(devices) // (data * tp))
    if data * fsdp * tp != len(devices):
        raise SpecError(
            f"train.mesh: data {data} x fsdp {fsdp} x tp {tp} are {data * fsdp * tp} devices,"
            f" expected {len(devices)}; leave fsdp out, or choose sizes whose product is"
            f" {len(devices)}"
        )
    if slices > 1 and data % slices == 0:
        inside = (data // slices, fsdp, tp)
        arranged = mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices)
    elif devices[0].platform == "tpu":
        arranged = mesh_utils.create_device_mesh((data, fsdp, tp), devices)
    else:
        arranged = np.array(devices).reshape(data, fsdp, tp)
    return Mesh(arranged, AXES)


def row_shares(mesh: Mesh | None) -> int:
    """Return the number of parts that the rows of a batch are split into."""
    return 1 if mesh is None else int(np.prod([mesh.shape[name] for name in ROW_AXES]))


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
