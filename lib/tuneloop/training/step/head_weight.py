"""The weight of the LM head on one device, read and added to in tiles of the vocabulary.

With several devices, each holds a part of the weight: some pieces of the vocabulary (axis `tp`) and
some columns of their vectors (axis `fsdp`). A tile is collected from all of them when it is needed,
and its gradient is summed and given back to them. So no device ever holds a whole weight of
262,144 pieces, which takes 2.8 GB for Gemma 3 27B in bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from tuneloop.specs.training.mesh import MeshSizes

LANES = 128
"""Tiles are as wide as a multiple of this, the width of a TPU's registers."""


@dataclass(frozen=True)
class WeightShares:
    """How the devices share the weight and its gradient."""

    is_embedding: bool
    """Whether the weight is (vocabulary, width); otherwise it is (width, vocabulary)."""
    sizes: MeshSizes
    """The mesh; all sizes are 1 for one device."""
    splits_pieces: bool
    """Whether the vocabulary is split over `tp`."""
    splits_width: bool
    """Whether the width is split over `fsdp`."""

    @classmethod
    def of(cls, shape: tuple[int, ...], is_embedding: bool, sizes: MeshSizes) -> WeightShares:
        """Split a weight of this shape where it divides evenly."""
        vocabulary, width = shape if is_embedding else shape[::-1]
        return cls(
            is_embedding,
            sizes,
            splits_pieces=sizes.tp > 1 and vocabulary % sizes.tp == 0,
            splits_width=sizes.fsdp > 1 and width % sizes.fsdp == 0,
        )

    @property
    def spec(self) -> P:
        """How the weight is split over the mesh."""
        pieces, width = "tp" if self.splits_pieces else None, "fsdp" if self.splits_width else None
        axes = (pieces, width) if self.is_embedding else (width, pieces)
        return P(*axes)  # type: ignore[no-untyped-call]

    @property
    def pieces_axis(self) -> int:
        """Axis of the weight that counts the pieces."""
        return 0 if self.is_embedding else 1


class HeadWeight:
    """This device's part of the weight; usable inside `jax.shard_map` on several devices."""

    def __init__(self, weight: jax.Array, shares: WeightShares, *, tile_pieces: int) -> None:
        """Cut the pieces into tiles.

        Args:
            weight: this device's part.
            shares: the parts of all devices.
            tile_pieces: pieces of a tile at most, unless that is less than `LANES` per device.
        """
        self._weight, self._shares = weight, shares
        self._parts = shares.sizes.tp if shares.splits_pieces else 1
        self._own = weight.shape[shares.pieces_axis]
        tiles = -(-self._own * self._parts // tile_pieces)
        step = -(-self._own // (tiles * LANES)) * LANES
        self._step = min(step, self._own)
        self.tiles = -(-self._own // self._step)
        """Number of tiles."""
        self.tile_pieces = self._step * self._parts
        """Pieces of one tile."""

    def tile(self, number: jax.Array) -> jax.Array:
        """Return a whole tile, the same on all devices: `tile_pieces` by the whole width."""
        axis = self._shares.pieces_axis
        found = jax.lax.dynamic_slice_in_dim(self._weight, self._start(number), self._step, axis)
        if self._shares.splits_width:
            found = jax.lax.all_gather(found, "fsdp", axis=1 - axis, tiled=True)
        if self._shares.splits_pieces:
            found = jax.lax.all_gather(found, "tp", axis=axis, tiled=True)
        return found

    def pieces(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return which pieces a tile has, and which of them no tile before it has.

        Returns:
            int32 (tile_pieces,) and bool (tile_pieces,).
        """
        places = self._start(number) + jnp.arange(self._step)
        is_new = places >= number * self._step  # the last tile begins inside the one before it
        starts = jnp.arange(self._parts)[:, None] * self._own
        return (starts + places).reshape(-1), jnp.tile(is_new, self._parts)

    def zeros(self) -> jax.Array:
        """Return an empty gradient of this device's part."""
        return jnp.zeros_like(self._weight)

    def add(self, gradient: jax.Array, number: jax.Array, tile: jax.Array) -> jax.Array:
        """Add what all devices computed for a tile to the gradient of this device's part.

        Args:
            gradient: what `zeros` or an earlier call returned.
            number: number of the tile.
            tile: float32, of the shape of `tile`: the share of this device's rows.
        """
        axis, shares = self._shares.pieces_axis, self._shares
        others = [name for name in ("data", "fsdp", "tp") if getattr(shares.sizes, name) > 1]
        if shares.splits_pieces:
            others.remove("tp")
            tile = _scattered_sum(tile, "tp", axis)
        if shares.splits_width:
            others.remove("fsdp")
            tile = _scattered_sum(tile, "fsdp", 1 - axis)
        if others:
            tile = jax.lax.psum(tile, tuple(others))  # type: ignore[no-untyped-call]
        start = self._start(number)
        old = jax.lax.dynamic_slice_in_dim(gradient, start, self._step, axis)
        new = old + tile.astype(gradient.dtype)
        return jax.lax.dynamic_update_slice_in_dim(gradient, new, start, axis)

    def _start(self, number: jax.Array) -> jax.Array:
        """Return the first piece of a tile within this device's part."""
        return jnp.minimum(number * self._step, self._own - self._step)


def _scattered_sum(array: jax.Array, name: str, axis: int) -> jax.Array:
    """Sum over a mesh axis; each device keeps its part along an axis of the array."""
    found: jax.Array = jax.lax.psum_scatter(array, name, scatter_dimension=axis, tiled=True)  # type: ignore[no-untyped-call]
    return found
