"""Attention by JAX's splash kernel, for TPUs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as splash
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from tuneloop.training.models.sharding import ROW_AXES

_LANES = 128
"""Width of a TPU's vector registers; lengths are padded to a multiple of it."""
_BLOCKS = (512, 384, 256, 128)
"""Queries, and keys, that the kernel computes at a time; the first that divides the length."""
_HEAD_AXIS = "tp"


def splash_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    mesh: Mesh | None,
    interpret: bool = False,
) -> jax.Array:
    """Compute attention; arguments and result are those of `scores_attention`.

    Args:
        query: (rows, length, heads, width).
        key: (rows, length, key heads, width).
        value: like `key`.
        segment_ids: int (rows, length); None if every row is one segment with padding at its end.
        scale: factor of the scores.
        window: number of keys that a query sees at most, itself included; None for all.
        softcap: scores x become `softcap * tanh(x / softcap)`; None leaves them.
        mesh: devices; rows are split over `data` and `fsdp`, heads over `tp`. None for one device.
        interpret: run the kernel's program on a CPU.
    """
    length = query.shape[1]
    arrays: list[Any] = [query * scale, key, value]
    if segment_ids is not None:
        arrays.append(segment_ids)
    arrays = [_lengthen(array) for array in arrays]

    def attend(query: Any, key: Any, value: Any, segments: Any = None) -> Any:
        kernel = _kernel(query.shape, window, softcap, interpret)
        by_heads = [array.swapaxes(1, 2) for array in (query, key, value)]
        if segments is None:
            found = jax.vmap(kernel)(*by_heads)
        else:
            found = jax.vmap(kernel)(*by_heads, splash.SegmentIds(segments, segments))
        return found.swapaxes(1, 2)

    if mesh is not None:
        arrays[1:3] = [_one_per_share(array, query.shape[2], mesh) for array in arrays[1:3]]
        specs = [_spec(array, mesh) for array in arrays]
        # The kernel does not say on which axes its result differs, so JAX cannot check it.
        attend = jax.shard_map(
            attend, mesh=mesh, in_specs=tuple(specs), out_specs=specs[0], check_vma=False
        )
    found: jax.Array = attend(*arrays)[:, :length]
    return found


def _kernel(
    shape: tuple[int, ...], window: int | None, softcap: float | None, interpret: bool
) -> Any:
    """Build the kernel for one row of queries of shape (rows, length, heads, width)."""
    _, length, heads, _ = shape
    block = next(size for size in _BLOCKS if length % size == 0)
    one = (
        splash.CausalMask((length, length))
        if window is None
        else splash.LocalMask((length, length), (window - 1, 0), offset=0)
    )
    return splash.make_splash_mha_single_device(
        splash.MultiHeadMask([one] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )


def _lengthen(array: jax.Array) -> jax.Array:
    """Add padding at the end of the rows; queries do not see keys that come after them."""
    missing = -array.shape[1] % _LANES
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
    return jnp.pad(array, widths) if missing else array


def _one_per_share(array: jax.Array, heads: int, mesh: Mesh) -> jax.Array:
    """Repeat key heads if there are not enough of them to split."""
    has_enough = array.shape[2] % mesh.shape[_HEAD_AXIS] == 0
    return array if has_enough else jnp.repeat(array, heads // array.shape[2], axis=2)


def _spec(array: jax.Array, mesh: Mesh) -> Any:
    """Return how an array of shape (rows, length, heads, width) or (rows, length) is split."""
    axes = (ROW_AXES, None, _HEAD_AXIS, None)
    return P(*axes[: array.ndim])  # type: ignore[no-untyped-call]
