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
from tuneloop.training.models.sharding import ROW_AXES
from tuneloop.training.step.head_weight import HeadWeight, WeightShares
from tuneloop.training.step.mesh import sizes_of

TILE_TOKENS = 2048
"""Target positions of a tile on one device."""
TILES_PER_ROW = 8
"""A row is cut into at least so many tiles, so that few positions without a target are computed."""
TILE_PIECES = 16_384
"""Pieces of the vocabulary of a tile at most: 134 MB of float32 logits."""


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

    softcap: float | None
    mesh: Mesh | None
    shares: WeightShares
    columns: int
    """Columns of a tile, each with all rows of a device."""
    missing_columns: int
    """Columns without a target that are added, so that `tp` divides their number."""


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
        mesh: devices that the rows are split over, and the columns along `tp`; None for one device.

    Returns:
        float32 scalar, in nats. Its gradient by `hidden` and by the weight is defined.
    """
    rows, length, _ = hidden.shape
    sizes = sizes_of(mesh)
    rows, missing = rows // sizes.row_shares, -length % sizes.tp
    length = (length + missing) // sizes.tp
    options = _Options(
        head.softcap,
        mesh,
        WeightShares.of(head.weight.shape, head.is_embedding, sizes),
        columns=max(1, min(TILE_TOKENS // rows, -(-length // TILES_PER_ROW))),
        missing_columns=missing,
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


def _compute(
    options: _Options,
    needed: tuple[bool, bool],
    hidden: jax.Array,
    weight: jax.Array,
    targets: jax.Array,
    mask: jax.Array,
) -> _Sums:
    """Compute on every device its own positions, and add up what all devices share."""
    if options.mesh is None:
        return _Tiles(options, hidden, weight, targets, mask).sums(needed)
    length = hidden.shape[1]
    given = [_pad(array, options.missing_columns) for array in (hidden, targets, mask)]
    by_position, everywhere = P(ROW_AXES, "tp"), P()  # type: ignore[no-untyped-call]
    by_part = options.shares.spec

    def local(hidden: Any, targets: Any, mask: Any, weight: Any) -> tuple[Any, ...]:
        sums = _Tiles(options, hidden, weight, targets, mask).sums(needed)
        loss = jax.lax.psum(sums.loss, (*ROW_AXES, "tp"))  # type: ignore[no-untyped-call]
        return loss, sums.hidden, sums.weight

    compute: Any = jax.shard_map(
        local,
        mesh=options.mesh,
        in_specs=(by_position, by_position, by_position, by_part),
        out_specs=(everywhere, by_position, by_part),
        check_vma=False,
    )
    loss, by_hidden, by_weight = compute(*given, weight)
    return _Sums(loss, None if by_hidden is None else by_hidden[:, :length], by_weight)


def _pad(array: jax.Array, columns: int) -> jax.Array:
    """Add columns of zeros at the end of the rows."""
    if not columns:
        return array
    return jnp.pad(array, ((0, 0), (0, columns), *[(0, 0)] * (array.ndim - 2)))


class _Tiles:
    """The positions of one device, cut into tiles: some columns of all rows by some pieces."""

    def __init__(
        self,
        options: _Options,
        hidden: jax.Array,
        weight: jax.Array,
        targets: jax.Array,
        mask: jax.Array,
    ) -> None:
        self._options = options
        self._head = HeadWeight(weight, options.shares, tile_pieces=TILE_PIECES)
        # Targets come first in every row, so that all tiles after the longest row's are skipped.
        self._order = jnp.argsort(~mask, axis=1, stable=True)
        self._counts = mask.sum(axis=1, dtype=jnp.int32)
        missing = -hidden.shape[1] % options.columns
        in_order = jnp.take_along_axis(hidden, self._order[..., None], axis=1)
        self._hidden = _pad(in_order, missing)
        self._targets = _pad(jnp.take_along_axis(targets, self._order, axis=1), missing)
        self._column_tiles = (self._counts.max() + options.columns - 1) // options.columns

    def sums(self, needed: tuple[bool, bool]) -> _Sums:
        """Compute the loss, and the gradients by hidden states and weight if they are needed."""
        normalisers, chosen = self._normalisers()
        loss = jnp.where(self._has_target(), normalisers - chosen, 0).sum()
        if not any(needed):
            return _Sums(loss, None, None)
        by_hidden, by_weight = self._gradients(needed, normalisers)
        return _Sums(loss, by_hidden, by_weight)

    def _normalisers(self) -> tuple[jax.Array, jax.Array]:
        """Return log-sum-exp of the logits of every position, and the logit of its target."""

        def add_pieces(pieces: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            weight = self._head.tile(pieces)
            _, is_new = self._head.pieces(pieces)

            def add_columns(columns: jax.Array, sums: tuple[jax.Array, ...]) -> Any:
                highest, total, chosen = (self._columns(each, columns) for each in sums)
                logits, is_target = self._logits(weight, columns, pieces)
                chosen = chosen + jnp.where(is_new & is_target, logits, 0).sum(axis=-1)
                logits = jnp.where(is_new, logits, -jnp.inf)
                new = jnp.maximum(highest, logits.max(axis=-1))
                total = total * jnp.exp(highest - new)
                total = total + jnp.exp(logits - new[..., None]).sum(axis=-1)
                changed = zip(sums, (new, total, chosen), strict=True)
                return tuple(self._with_columns(*each, columns) for each in changed)

            found: tuple[jax.Array, ...] = jax.lax.fori_loop(
                0, self._column_tiles, add_columns, sums
            )
            return found

        zeros = jnp.zeros(self._targets.shape, jnp.float32)
        start = (zeros - jnp.inf, zeros, zeros)
        highest, total, chosen = jax.lax.fori_loop(0, self._head.tiles, add_pieces, start)
        return highest + jnp.log(total), chosen

    def _gradients(
        self, needed: tuple[bool, bool], normalisers: jax.Array
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """Compute the gradients; those by the weight are complete after one tile of pieces."""

        def add_pieces(pieces: jax.Array, sums: Any) -> Any:
            by_hidden, by_weight = sums
            weight = self._head.tile(pieces)
            start = jnp.zeros(weight.shape, jnp.float32) if needed[1] else None

            def add_columns(columns: jax.Array, sums: Any) -> Any:
                by_hidden, by_tile = sums
                slopes = self._slopes(weight, normalisers, columns, pieces)
                if by_hidden is not None:
                    new = self._einsum("rcv,vd->rcd", slopes, weight)
                    new += self._columns(by_hidden, columns)
                    by_hidden = self._with_columns(by_hidden, new, columns)
                if by_tile is not None:
                    hidden = self._columns(self._hidden, columns)
                    by_tile += self._einsum("rcv,rcd->vd", slopes, hidden)
                return by_hidden, by_tile

            by_hidden, by_tile = jax.lax.fori_loop(
                0, self._column_tiles, add_columns, (by_hidden, start)
            )
            if by_tile is not None:
                by_weight = self._head.add(by_weight, pieces, by_tile)
            return by_hidden, by_weight

        start = (
            jnp.zeros(self._hidden.shape, jnp.float32) if needed[0] else None,
            self._head.zeros() if needed[1] else None,
        )
        by_hidden, by_weight = jax.lax.fori_loop(0, self._head.tiles, add_pieces, start)
        if by_hidden is not None:
            places = jnp.argsort(self._order, axis=1)[..., None]
            by_hidden = jnp.take_along_axis(by_hidden, places, axis=1).astype(self._hidden.dtype)
        return by_hidden, by_weight

    def _logits(
        self, weight: jax.Array, columns: jax.Array, pieces: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return a tile's float32 logits, and which of them are those of targets."""
        logits = self._einsum("rcd,vd->rcv", self._columns(self._hidden, columns), weight)
        if (cap := self._options.softcap) is not None:
            logits = jnp.tanh(logits / cap) * cap
        numbers, _ = self._head.pieces(pieces)
        return logits, numbers == self._columns(self._targets, columns)[..., None]

    def _slopes(
        self, weight: jax.Array, normalisers: jax.Array, columns: jax.Array, pieces: jax.Array
    ) -> jax.Array:
        """Return the gradient of the loss by a tile's products of hidden states and weight."""
        logits, is_target = self._logits(weight, columns, pieces)
        slopes = jnp.exp(logits - self._columns(normalisers, columns)[..., None]) - is_target
        if (cap := self._options.softcap) is not None:
            slopes = slopes * (1 - jnp.square(logits / cap))
        _, is_new = self._head.pieces(pieces)
        has_target = self._columns(self._has_target(), columns)
        slopes = jnp.where(is_new & has_target[..., None], slopes, 0)
        return slopes.astype(self._hidden.dtype)

    def _einsum(self, letters: str, *arrays: jax.Array) -> jax.Array:
        """Multiply with float32 sums; `vd` stands for the axes of the weight."""
        if not self._options.shares.is_embedding:
            letters = letters.replace("vd", "dv")
        return jnp.einsum(letters, *arrays, preferred_element_type=jnp.float32)

    def _has_target(self) -> jax.Array:
        """Return which of the ordered positions have a target."""
        return jnp.arange(self._targets.shape[1]) < self._counts[:, None]

    def _columns(self, array: jax.Array, tile: jax.Array) -> jax.Array:
        size = self._options.columns
        return jax.lax.dynamic_slice_in_dim(array, tile * size, size, axis=1)

    def _with_columns(self, array: jax.Array, new: jax.Array, tile: jax.Array) -> jax.Array:
        at = tile * self._options.columns
        return jax.lax.dynamic_update_slice_in_dim(array, new, at, axis=1)
