"""Which part of a parameter each device of a mesh holds.

Tunix's models mark the axes of their parameters with the names of mesh axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tp")
"""Names of the axes of a mesh; Tunix's models mark their parameters with the last two."""
ROW_AXES = ("data", "fsdp")
"""Axes that the rows of a batch are split over."""

_MARKS = ("sharding_names", "out_sharding", "sharding")
"""Metadata of flax.nnx that names mesh axes, by its version."""


def sharding_of(variable: nnx.Variable[Any], shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Return how a parameter is split over a mesh.

    An axis that the mesh does not have, or that does not divide the parameter evenly, is left out.
    A parameter without marks, such as an adapter, is copied to every device.

    Args:
        variable: the parameter, with the marks of the model's code.
        shape: its shape.
        mesh: the devices.
    """
    metadata = variable.get_metadata()
    given = next((metadata[key] for key in _MARKS if metadata.get(key)), ())
    axes: list[Any] = []
    for axis, size in zip(given, shape, strict=False):
        names = axis if isinstance(axis, tuple) else (axis,)
        present = tuple(name for name in names if name in mesh.shape)
        count = int(np.prod([mesh.shape[name] for name in present]))
        axes.append(present if present and size % count == 0 else None)
    return NamedSharding(mesh, P(*axes))  # type: ignore[no-untyped-call]


def is_on_mesh(value: Any, mesh: Mesh) -> bool:
    """Return whether an array lies on the devices of a mesh."""
    sharding = getattr(value, "sharding", None)
    return isinstance(sharding, NamedSharding) and sharding.mesh == mesh


def remove_sharding_marks(variable: nnx.Variable[Any]) -> None:
    """Take the marks off a parameter; Tunix would shard gradients and optimizer state by them.

    It cannot: factored states have other shapes, and an axis may not divide a parameter.
    """
    for name in _MARKS:
        if name in variable.get_metadata():
            variable.del_metadata(name)
