"""Cross entropy of target tokens, computed together with the projection to logits.

The logits of a batch are never in memory at once. They are computed in tiles of some target
positions by some pieces of the vocabulary: once for the normaliser of every position, and once more
for the gradients, which therefore need no second buffer of the weight's size. Positions without a
target are skipped, so a batch whose prompts are four fifths of its tokens costs a fifth.

The gradients are computed in the forward pass and scaled in the backward pass, as in Liger Kernel
(https://arxiv.org/abs/2410.10989); the tiles are those of Cut Cross Entropy
(https://arxiv.org/abs/2411.09009).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tuneloop.training.models.head import Head
from tuneloop.training.step.mesh import ROW_AXES, sizes_of

TILE_TOKENS = 2048
"""Target positions of a tile on one device."""
TILES_PER_ROW = 8
"""A row is cut into at least so many tiles, so that few positions without a target are computed."""
TILE_PIECES = 16_384
"""Pieces of the vocabulary of a tile at most: 134 MB of float32 logits."""
LANES = 128
"""Tiles are as wide as a multiple of this, the width of a TPU's registers."""


class _Sums(NamedTuple):
    """The loss and its gradients."""

    loss: jax.Array
    """float32 scalar, in nats."""
    hidden: jax.Array | None
    """Gradient by the hidden states; None if it is not needed."""
    weight: jax.Array | None
    """Gradient by the weight; None if it is not needed."""


@dataclass(frozen=True)
class _Options:
    """What is fixed when the loss is compiled."""

    is_embedding: bool
    softcap: float | None
    mesh: Mesh | None
    columns: int
    """Columns of a tile, each with all rows of a device."""
    pieces: int
    """Pieces of a tile."""
    splits_columns: bool
    """Whether the columns are split over the axis `tp`."""


def summed_cross_entropy(
    hidden: jax.Array,
    head: Head,
    targets: jax.Array,
    mask: jax.Array,
    *,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Sum the negative log-likelihood of target tokens.

    Args:
        hidden: (rows, length, width): states after the last norm, in the dtype of the weight.
        head: projection to logits. Logits and losses are float32 for any dtype of the weight.
        targets: int32 (rows, length): the token that each position predicts.
        mask: bool (rows, length): which positions have a target.
        mesh: devices that the rows are split over, and the columns along `tp` if they divide; None
            for one device.

    Returns:
        float32 scalar, in nats. Its gradient by `hidden` and by the weight is defined.
    """
    rows, length, _ = hidden.shape
    vocabulary = head.weight.shape[0 if head.is_embedding else 1]
    sizes = sizes_of(mesh)
    tp = 1 if length % sizes.tp else sizes.tp
    rows, length = rows // sizes.row_shares, length // tp
    tiles = -(-vocabulary // TILE_PIECES)
    pieces = -(-vocabulary // (tiles * LANES)) * LANES
    options = _Options(
        head.is_embedding,
        head.softcap,
        mesh,
        columns=max(1, min(TILE_TOKENS // rows, -(-length // TILES_PER_ROW))),
        splits_columns=tp > 1,
        pieces=min(pieces, vocabulary),
    )
    return _cross_entropy(options, hidden, head.weight, targets, mask)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cross_entropy(
    options: _Options, hidden: jax.Array, weight: jax.Array, targets: jax.Array, mask: jax.Array
) -> jax.Array:
    return _compute(options, (False, False), hidden, weight, targets, mask).loss


def _forward(options: _Options, hidden: Any, weight: Any, targets: Any, mask: Any) -> Any:
    """Compute the loss and the gradients that are needed; a frozen weight needs none."""
    needed = (hidden.perturbed, weight.perturbed)
    sums = _compute(options, needed, hidden.value, weight.value, targets.value, mask.value)
    return sums.loss, (sums.hidden, sums.weight)


def _backward(options: _Options, gradients: Any, scale: Any) -> Any:
    def scaled(gradient: jax.Array | None) -> jax.Array | None:
        return None if gradient is None else (gradient * scale).astype(gradient.dtype)

    by_hidden, by_weight = gradients
    return scaled(by_hidden), scaled(by_weight), None, None


_cross_entropy.defvjp(_forward, _backward, symbolic_zeros=True)


def _compute(options: _Options, needed: tuple[bool, bool], *arrays: jax.Array) -> _Sums:
    """Compute on every device its own rows, and add up what all devices share."""
    if options.mesh is None:
        return _Tiles(options, *arrays).sums(needed)
    columns = ("tp",) if options.splits_columns else ()
    by_position, everywhere = P(ROW_AXES, *columns), P()  # type: ignore[no-untyped-call]

    def local(*arrays: jax.Array) -> tuple[Any, ...]:
        sums = _Tiles(options, *arrays).sums(needed)
        shared: Any = (sums.loss, sums.weight)
        # psum has no types. None, for a gradient that is not needed, has nothing to add up.
        loss, by_weight = jax.lax.psum(shared, (*ROW_AXES, *columns))  # type: ignore[no-untyped-call]
        return loss, sums.hidden, by_weight

    found = jax.shard_map(
        local,
        mesh=options.mesh,
        in_specs=(by_position, everywhere, by_position, by_position),
        out_specs=(everywhere, by_position, everywhere),
        check_vma=False,
    )(*arrays)
    return _Sums(*found)


class _Tiles:
    """The rows of one device, cut into tiles: some columns of all rows by some pieces."""

    def __init__(
        self,
        options: _Options,
        hidden: jax.Array,
        weight: jax.Array,
        targets: jax.Array,
        mask: jax.Array,
    ) -> None:
        self._options, self._weight = options, weight
        self._axis = 0 if options.is_embedding else 1
        # Targets come first in every row, so that all tiles after the longest row's are skipped.
        self._order = jnp.argsort(~mask, axis=1, stable=True)
        self._counts = mask.sum(axis=1, dtype=jnp.int32)
        self._hidden = self._pad(jnp.take_along_axis(hidden, self._order[..., None], axis=1))
        self._targets = self._pad(jnp.take_along_axis(targets, self._order, axis=1))
        self._column_tiles = (self._counts.max() + options.columns - 1) // options.columns
        self._piece_tiles = -(-weight.shape[self._axis] // options.pieces)

    def sums(self, needed: tuple[bool, bool]) -> _Sums:
        """Compute the loss, and the gradients by hidden states and weight if they are needed."""
        normalisers = jnp.zeros(self._targets.shape, jnp.float32)

        def add(tile: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            loss, normalisers = sums
            found, normaliser = self._losses(tile)
            at = (0, tile * self._options.columns)
            return loss + found, jax.lax.dynamic_update_slice(normalisers, normaliser, at)

        start = (jnp.zeros((), jnp.float32), normalisers)
        loss, normalisers = jax.lax.fori_loop(0, self._column_tiles, add, start)
        if not any(needed):
            return _Sums(loss, None, None)
        by_hidden, by_weight = self._gradients(needed, normalisers)
        return _Sums(loss, by_hidden, by_weight)

    def _pad(self, array: jax.Array) -> jax.Array:
        """Fill the columns up to whole tiles."""
        missing = -array.shape[1] % self._options.columns
        return jnp.pad(array, ((0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)))

    def _columns(self, array: jax.Array, tile: jax.Array) -> jax.Array:
        size = self._options.columns
        return jax.lax.dynamic_slice_in_dim(array, tile * size, size, axis=1)

    def _piece_start(self, tile: jax.Array) -> jax.Array:
        """Return the first piece of a tile; the last tile begins inside the one before it."""
        size = self._options.pieces
        return jnp.minimum(tile * size, self._weight.shape[self._axis] - size)

    def _pieces(self, tile: jax.Array) -> jax.Array:
        size = self._options.pieces
        start = self._piece_start(tile)
        return jax.lax.dynamic_slice_in_dim(self._weight, start, size, axis=self._axis)

    def _logits(
        self, hidden: jax.Array, weight: jax.Array, columns: jax.Array, pieces: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return a tile's float32 logits, which pieces are its own, and which are targets."""
        logits = self._einsum("rcd,vd->rcv", hidden, weight)
        if (cap := self._options.softcap) is not None:
            logits = jnp.tanh(logits / cap) * cap
        number = self._piece_start(pieces) + jnp.arange(self._options.pieces)
        is_own = number >= pieces * self._options.pieces
        return logits, is_own, number == self._columns(self._targets, columns)[..., None]

    def _einsum(self, letters: str, *arrays: jax.Array) -> jax.Array:
        """Multiply with float32 sums; `vd` stands for the axes of the weight."""
        letters = letters if self._options.is_embedding else letters.replace("vd", "dv")
        return jnp.einsum(letters, *arrays, preferred_element_type=jnp.float32)

    def _losses(self, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the sum of the losses of a tile's columns, and log-sum-exp of their logits."""
        hidden = self._columns(self._hidden, columns)

        def add(pieces: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            highest, total, chosen = sums
            weight = self._pieces(pieces)
            logits, is_own, is_target = self._logits(hidden, weight, columns, pieces)
            logits = jnp.where(is_own, logits, -jnp.inf)
            new = jnp.maximum(highest, logits.max(axis=-1))
            total = total * jnp.exp(highest - new) + jnp.exp(logits - new[..., None]).sum(axis=-1)
            chosen = chosen + jnp.where(is_own & is_target, logits, 0).sum(axis=-1)
            return new, total, chosen

        zeros = jnp.zeros(hidden.shape[:2], jnp.float32)
        start = (zeros - jnp.inf, zeros, zeros)
        highest, total, chosen = jax.lax.fori_loop(0, self._piece_tiles, add, start)
        normaliser = highest + jnp.log(total)
        return jnp.where(self._has_target(columns), normaliser - chosen, 0).sum(), normaliser

    def _has_target(self, columns: jax.Array) -> jax.Array:
        size = self._options.columns
        return columns * size + jnp.arange(size) < self._counts[:, None]

    def _gradients(
        self, needed: tuple[bool, bool], normalisers: jax.Array
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Compute the gradients; those by the weight are complete after one tile of pieces."""
        size = self._options.pieces
        like = self._pieces(jnp.zeros((), jnp.int32))

        def add_pieces(pieces: jax.Array, sums: Any) -> Any:
            by_hidden, by_weight = sums
            weight = self._pieces(pieces)

            def add_columns(columns: jax.Array, sums: Any) -> Any:
                by_hidden, by_pieces = sums
                hidden = self._columns(self._hidden, columns)
                logits, is_own, is_target = self._logits(hidden, weight, columns, pieces)
                normaliser = self._columns(normalisers, columns)[..., None]
                slopes = jnp.exp(logits - normaliser) - is_target
                if (cap := self._options.softcap) is not None:
                    slopes = slopes * (1 - jnp.square(logits / cap))
                slopes = jnp.where(is_own & self._has_target(columns)[..., None], slopes, 0)
                slopes = slopes.astype(hidden.dtype)
                if by_hidden is not None:
                    new = self._einsum("rcv,vd->rcd", slopes, weight)
                    new += self._columns(by_hidden, columns)
                    at = columns * self._options.columns
                    by_hidden = jax.lax.dynamic_update_slice_in_dim(by_hidden, new, at, axis=1)
                if by_pieces is not None:
                    by_pieces += self._einsum("rcv,rcd->vd", slopes, hidden)
                return by_hidden, by_pieces

            start = jnp.zeros(like.shape, jnp.float32) if needed[1] else None
            by_hidden, by_pieces = jax.lax.fori_loop(
                0, self._column_tiles, add_columns, (by_hidden, start)
            )
            if by_pieces is not None:
                at, axis = self._piece_start(pieces), self._axis
                old = jax.lax.dynamic_slice_in_dim(by_weight, at, size, axis=axis)
                new = old + by_pieces.astype(old.dtype)
                by_weight = jax.lax.dynamic_update_slice_in_dim(by_weight, new, at, axis=axis)
            return by_hidden, by_weight

        by_hidden, by_weight = jax.lax.fori_loop(
            0,
            self._piece_tiles,
            add_pieces,
            (
                jnp.zeros(self._hidden.shape, jnp.float32) if needed[0] else None,
                jnp.zeros_like(self._weight) if needed[1] else None,
            ),
        )
        if by_hidden is not None:
            places = jnp.argsort(self._order, axis=1)[..., None]
            by_hidden = jnp.take_along_axis(by_hidden, places, axis=1).astype(self._hidden.dtype)
        return by_hidden, by_weight
