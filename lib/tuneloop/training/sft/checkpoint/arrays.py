"""Arrays of a training state by name, and rectangular parts of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from tuneloop.training.sft.checkpoint.manifest import Piece, StoredArray

Bounds = tuple[tuple[int, int], ...]
"""First index and end of a part of an array, for each dimension."""


@dataclass(frozen=True)
class ArrayLayout:
    """What an array needs besides its values: shape, dtype and place."""

    stored: StoredArray
    """Dtype and shape of its numbers."""
    sharding: Any
    """The devices, and which part of the array each of them holds."""
    is_committed: bool
    """False for an array that JAX may still move to other devices, such as a step count."""
    key_impl: Any = None
    """Implementation of a random key, which is stored as its integers; None for numbers."""


def layout_of(state: Any) -> Any:
    """Replace each array of a pytree by its layout, which needs no memory on the devices."""
    return jax.tree.map(_layout, state)


def _layout(leaf: jax.Array) -> ArrayLayout:
    data = numbers_of(leaf)
    return ArrayLayout(
        describe(data),
        data.sharding,
        data.committed,
        key_impl=jax.random.key_impl(leaf) if is_key(leaf) else None,
    )


def named(state: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their path, in the order of the pytree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def is_key(leaf: jax.Array) -> bool:
    """Return whether an array holds random keys."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def numbers_of(leaf: jax.Array) -> jax.Array:
    """Return an array of numbers; random keys become their integers."""
    data: jax.Array = jax.random.key_data(leaf) if is_key(leaf) else leaf
    return data


def describe(array: jax.Array) -> StoredArray:
    """Return dtype and shape of an array."""
    return StoredArray(dtype=array.dtype.name, shape=array.shape)


def bounds_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    """Return the bounds of a shard's index, which may leave out dimensions."""
    whole = (*index, *(slice(None),) * (len(shape) - len(index)))
    return tuple(one.indices(size)[:2] for one, size in zip(whole, shape, strict=True))


def overlap(region: Bounds, piece: Piece) -> Bounds | None:
    """Return the bounds that a region and a piece have in common, or None."""
    common = tuple(
        (max(a, start), min(b, start + size))
        for (a, b), start, size in zip(region, piece.start, piece.shape, strict=True)
    )
    return common if all(a < b for a, b in common) else None
